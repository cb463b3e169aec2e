"""`funcx up`, as everybody starts it: service, endpoint and two workers, on a free port."""
import json
import os
import subprocess
import sys

from .base import System as Base

#: Calls in one request. A request holds at most 100,000 calls and 96 MiB; smaller ones let the first tasks run sooner.
CALLS_PER_REQUEST = 10_000
BYTES_PER_REQUEST = 16 << 20


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


def chunks(arguments):
    """The arguments in parts that fit into requests."""
    part, size = [], 0
    for argument in arguments:
        length = len(argument) if isinstance(argument, str) else 8
        if part and (len(part) == CALLS_PER_REQUEST or size + length > BYTES_PER_REQUEST):
            yield part
            part, size = [], 0
        part.append(argument)
        size += length
    if part:
        yield part
