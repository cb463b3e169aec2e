"""`funcx up`, as everybody starts it: service, endpoint and two workers, on a free port."""
import json
import os
import subprocess
import sys

from .base import System as Base


class Fabric(Base):
    #: A free one.
    port = 0

    def versions(self):
        told = subprocess.run([self.setup.funcx, "--version"], capture_output=True, text=True, check=True)
        return {"funcx": told.stdout.split()[-1]}

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FUNCX_")}
        self.process = subprocess.Popen(
            [self.setup.funcx, "--json", "up", "--port", str(self.port), "--workers", "2", "--python", sys.executable],
            env=environment | {"FUNCX_LOG": "warn"},
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"`funcx up` ended with code {self.process.wait()} before it was ready")
        ready = json.loads(line)
        self.service, self.endpoint, self.token = ready["service"], ready["endpoint_id"], ready["token"]

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
