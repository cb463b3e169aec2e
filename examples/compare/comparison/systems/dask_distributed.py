"""Dask distributed: two processes of one thread each."""
import os
import socket
import subprocess
import sys
from importlib.metadata import version

from .. import work
from .base import System as Base, outcome


class System(Base):
    def versions(self):
        return {name: version(name) for name in ("dask", "distributed")}

    def start(self):
        import dask

        dask.config.set({"temporary-directory": self.setup.directory})
        self.cluster = None
        if self.setup.variant == "tuned":
            self._start_apart()
        else:
            self._start_local()

    def _start_local(self):
        from distributed import Client, LocalCluster

        self.cluster = LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        )
        self.client = Client(self.cluster)

    def _start_apart(self):
        """A scheduler that does not share the client's interpreter, and tasks that are pushed ahead to the workers."""
        from distributed import Client

        os.environ["DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION"] = "inf"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        address = f"tcp://127.0.0.1:{port}"
        dask = [sys.executable, "-m", "dask"]
        quiet = ["--host", "127.0.0.1", "--no-dashboard"]
        subprocess.Popen([*dask, "scheduler", *quiet, "--port", port, "--no-show"])
        subprocess.Popen(
            [*dask, "worker", address, *quiet, "--nworkers", "2", "--nthreads", "1"]
            + ["--local-directory", self.setup.directory]
        )
        self.client = Client(address, timeout=30)
        self.client.wait_for_workers(2, timeout=30)

    def submit(self, name, arguments):
        return self.client.map(getattr(work, name), arguments, pure=False)

    def collect(self, submitted):
        try:
            return self.client.gather(submitted)
        except Exception:  # some failed: each for itself
            return [outcome(future) for future in submitted]

    def call(self, name, argument):
        return self.client.submit(getattr(work, name), argument, pure=False).result()

    def stop(self):
        self.client.close()
        if self.cluster:
            self.cluster.close()


