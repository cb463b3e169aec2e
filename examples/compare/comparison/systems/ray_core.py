"""Ray on one node with two CPUs."""
import os
from importlib.metadata import version

from .. import work
from .base import Failed, System as Base


class System(Base):
    def versions(self):
        return {"ray": version("ray")}

    def start(self):
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        self.ray = ray
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            object_store_memory=1_000_000_000,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=os.path.join(self.setup.directory, "r"),
        )
        self.functions = {}

    def submit(self, name, arguments):
        if name not in self.functions:
            self.functions[name] = self.ray.remote(getattr(work, name))
        function = self.functions[name]
        return [function.remote(argument) for argument in arguments]

    def collect(self, submitted):
        try:
            return self.ray.get(submitted)
        except Exception:  # some failed: each for itself
            return [self._outcome(reference) for reference in submitted]

    def _outcome(self, reference):
        try:
            return self.ray.get(reference)
        except Exception as error:
            return Failed(repr(error))

    def stop(self):
        self.ray.shutdown()
