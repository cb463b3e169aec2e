"""funcx from the command line, which is the Rust client."""
import inspect
import json
import os
import subprocess

from .. import work
from .base import Unsupported
from .funcx_fabric import Fabric


class System(Fabric):
    def start(self):
        super().start()
        self.file = os.path.join(self.setup.directory, "work.py")
        with open(self.file, "w", encoding="utf-8") as file:
            file.write(inspect.getsource(work))
        self.environment = os.environ | {
            "FUNCX_SERVICE": self.service, "FUNCX_ENDPOINT_ID": self.endpoint, "FUNCX_TOKEN": self.token
        }

    def _funcx(self, *words):
        told = subprocess.run(
            [self.setup.funcx, *words], env=self.environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return told.stdout

    def call(self, name, argument):
        return json.loads(self._funcx("run", f"{self.file}:{name}", json.dumps(argument)))

    def submit(self, name, arguments):
        """`funcx map` submits and collects in one go, so all there is to do yet is to write down the arguments."""
        known = subprocess.run([self.setup.funcx, "map", "--help"], capture_output=True)
        if known.returncode != 0:
            raise Unsupported("this funcx has no `map`, so there is no way to call a function many times")
        path = os.path.join(self.setup.directory, "arguments.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(argument)}\n" for argument in arguments)
        return name, path

    def collect(self, submitted):
        name, path = submitted
        chunk = [] if self.setup.variant == "map" else ["--chunk", "1"]
        return [json.loads(line) for line in self._funcx("map", *chunk, "--input", path, f"{self.file}:{name}").splitlines()]

    def round_trips(self, calls):
        """Percentiles in milliseconds; the command sees to it that each call returned."""
        rows = json.loads(self._funcx("--json", "bench", "latency", "--calls", str(calls), "--warm-up", "100"))
        total = rows[-1]
        if total["calls"] != calls:
            raise RuntimeError(f"{total['calls']} of {calls} calls")
        return total["p50_ms"], total["p99_ms"]
