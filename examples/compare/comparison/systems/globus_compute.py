"""Globus Compute: the engine of its endpoint, in process.

The data path is the endpoint's own: serializer of the SDK, Task message, GlobusComputeEngine, interchange, manager, worker,
Result message. The web service and AMQP, which its users have besides, are not there, and not in its figures.
"""
import os
import uuid
from importlib.metadata import version

from .. import work
from .base import Failed, System as Base


class System(Base):
    def versions(self):
        return {name: version(name) for name in ("globus-compute-endpoint", "parsl", "dill")}

    def start(self):
        os.environ["GLOBUS_COMPUTE_USER_DIR"] = os.path.join(self.setup.directory, "home")
        from globus_compute_common import messagepack
        from globus_compute_common.messagepack.message_types import Task
        from globus_compute_endpoint.engines import GlobusComputeEngine
        from globus_compute_endpoint.engines.base import GCFuture
        from globus_compute_sdk.serialize import ComputeSerializer
        from parsl.providers import LocalProvider

        self.messages, self.Task, self.Future = messagepack, Task, GCFuture
        self.serializer = ComputeSerializer()
        self.functions = {}
        self.engine = GlobusComputeEngine(
            label="engine",
            address="127.0.0.1",
            max_workers_per_node=2,
            cores_per_worker=1,
            max_retries_on_system_failure=2,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )
        self.engine.start(endpoint_id=uuid.uuid4(), run_dir=self.setup.directory)

    def submit(self, name, arguments):
        if name not in self.functions:
            self.functions[name] = self.serializer.serialize(getattr(work, name))
        function = self.functions[name]
        return [self._submit(function, argument) for argument in arguments]

    def _submit(self, function, argument):
        serialize = self.serializer.serialize
        buffer = self.serializer.pack_buffers([function, serialize((argument,)), serialize({})])
        task = uuid.uuid4()
        future = self.Future(gc_task_id=task)
        self.engine.submit(future, self.messages.pack(self.Task(task_id=task, task_buffer=buffer)), {})
        return future

    def collect(self, submitted):
        return [self._outcome(future) for future in submitted]

    def _outcome(self, future):
        try:
            result = self.messages.unpack(future.result())
        except Exception as error:
            return Failed(repr(error))
        return Failed(result.data[-300:]) if result.is_error else self.serializer.deserialize(result.data)

    def stop(self):
        self.engine.shutdown()
