"""HyperQueue from PyPI: server and two one-core workers as threads of this process, tasks as processes of their own.

Its Python client asks once a second whether a job is done. What is timed here is therefore what the tasks have done, seen
by looking at the files that they make.
"""
import os
import time
from importlib.metadata import version

from .base import System as Base


class System(Base):
    def versions(self):
        return {"hyperqueue": version("hyperqueue")}

    def start(self):
        from hyperqueue import Job, LocalCluster
        from hyperqueue.cluster import WorkerConfig

        self.Job = Job
        self.cluster = LocalCluster()
        for _ in range(2):
            self.cluster.start_worker(WorkerConfig(cores=1))
        self.client = self.cluster.client()

    def _submit(self, commands):
        job = self.Job(max_fails=0)
        for command in commands:
            job.program(command, stdout=None, stderr=None)
        return self.client.submit(job)

    def submit_spawn(self, paths):
        self._submit(["touch", path] for path in paths)
        return paths

    def collect_spawn(self, submitted):
        """Whether each command did its work, as soon as all have. The last ones are looked for first: that is cheap."""
        end = time.monotonic() + 120
        for path in reversed(submitted):
            while not os.path.exists(path) and time.monotonic() < end:
                time.sleep(0.001)
        return [os.path.exists(path) for path in submitted]

    def stop(self):
        self.cluster.stop()
