"""Parsl: DataFlowKernel and HighThroughputExecutor with two workers, as documented."""
import os
from importlib.metadata import version

from .. import work
from .base import System as Base


class System(Base):
    def versions(self):
        return {name: version(name) for name in ("parsl", "pyzmq")}

    def start(self):
        import parsl
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        executor = HighThroughputExecutor(
            label="htex",
            address="127.0.0.1",
            max_workers_per_node=2,
            cores_per_worker=1,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )
        run_dir = os.path.join(self.setup.directory, "runinfo")
        # Two retries, without which a killed worker fails its tasks.
        self.kernel = parsl.load(Config(executors=[executor], run_dir=run_dir, usage_tracking=0, retries=2))
        self.apps = {}

    def submit(self, name, arguments):
        if name not in self.apps:
            from parsl import python_app

            self.apps[name] = python_app(getattr(work, name))
        app = self.apps[name]
        return [app(argument) for argument in arguments]

    def stop(self):
        self.kernel.cleanup()
