"""funcx from the command line, which is the Rust client."""
import inspect
import json
import os
import subprocess

from .. import work
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

    def round_trips(self, calls):
        """Percentiles in milliseconds; the command sees to it that each call returned."""
        rows = json.loads(self._funcx("--json", "bench", "latency", "--calls", str(calls), "--warm-up", "100"))
        total = rows[-1]
        if total["calls"] != calls:
            raise RuntimeError(f"{total['calls']} of {calls} calls")
        return total["p50_ms"], total["p99_ms"]
