"""executorlib on one node: two resident worker processes."""
import os
from importlib.metadata import version

from .. import work
from .base import System as Base


class System(Base):
    def versions(self):
        return {name: version(name) for name in ("executorlib", "pyzmq")}

    def start(self):
        from executorlib import SingleNodeExecutor

        os.chdir(self.setup.directory)
        self.executor = SingleNodeExecutor(
            max_workers=2,
            hostname_localhost=True,
            block_allocation=True,
            restart_limit=3,
            disable_dependencies=self.setup.variant == "nodeps",
        )

    def submit(self, name, arguments):
        function = getattr(work, name)
        return [self.executor.submit(function, argument) for argument in arguments]

    def stop(self):
        self.executor.shutdown(wait=False, cancel_futures=True)
