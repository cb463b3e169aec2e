"""The standard library's process pool: what two Python processes can do for one Python caller."""
import platform
from concurrent.futures import ProcessPoolExecutor

from .. import work
from .base import System as Base


class System(Base):
    def versions(self):
        return {"python": platform.python_version()}

    def start(self):
        self.executor = ProcessPoolExecutor(2)

    def submit(self, name, arguments):
        function = getattr(work, name)
        if self.setup.variant == "chunked":
            return self.executor.map(function, arguments, chunksize=100)
        return [self.executor.submit(function, argument) for argument in arguments]

    def collect(self, submitted):
        return list(submitted) if self.setup.variant == "chunked" else super().collect(submitted)

    def stop(self):
        self.executor.shutdown(wait=False, cancel_futures=True)
