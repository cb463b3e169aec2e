"""Celery with Redis as broker and as result backend."""
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import version

from .base import Failed, System as Base

ADDRESS = "FUNCX_COMPARE_REDIS"


class System(Base):
    def versions(self):
        told = subprocess.run([shutil.which("redis-server"), "--version"], capture_output=True, text=True, check=True)
        redis = next((word[2:] for word in told.stdout.split() if word.startswith("v=")), told.stdout)
        return {"celery": version("celery"), "redis-server": redis}

    def start(self):
        path = os.path.join(self.setup.directory, "redis")
        subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
        )
        _wait_for_socket(path)
        os.environ |= {ADDRESS: path, "C_FORCE_ROOT": "1"}
        subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "comparison.systems.celery_app", "worker", "-c", "2", "-P", "prefork"]
            + ["-l", "warning", "--without-gossip", "--without-mingle", "-n", "compare@localhost"]
        )
        from . import celery_app

        self.functions = celery_app.functions

    def submit(self, name, arguments):
        function = self.functions[name]
        return [function.delay(argument) for argument in arguments]

    def collect(self, submitted):
        return [_outcome(result) for result in submitted]


def _outcome(result):
    try:
        return result.get(timeout=120)
    except Exception as error:
        return Failed(repr(error))


def _wait_for_socket(path):
    end = time.monotonic() + 10
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                return probe.connect(path)
            except OSError:
                if time.monotonic() > end:
                    raise
        time.sleep(0.005)
