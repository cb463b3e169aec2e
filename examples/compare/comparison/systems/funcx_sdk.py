"""funcx through the unmodified Globus Compute SDK, as scripts that stay as they are use it."""
import os
import socket
import time
from importlib.metadata import version

from .. import work
from .base import Failed, Unsupported
from .funcx_fabric import Fabric, chunks

#: Results that are asked for in one request, and the time between two questions.
RESULTS_PER_REQUEST = 5_000
PAUSE_SECONDS = 0.002


class System(Fabric):
    #: The one that `funcx up` takes, and the only one that the SDK knows for its `local` environment. A proxy variable would
    #: lead elsewhere, but its HTTP library waits 40 ms for acknowledgements when it talks to proxies.
    port = 5000

    def versions(self):
        return super().versions() | {"globus-compute-sdk": version("globus-compute-sdk")}

    def start(self):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise Unsupported(f"port {self.port}, which the SDK wants: {error.strerror}") from error
        super().start()
        os.environ["HOME"] = self.setup.directory
        import globus_sdk
        from globus_compute_sdk import Client

        authorizer = globus_sdk.AccessTokenAuthorizer(self.token)
        self.client = Client(local_compute_services=True, authorizer=authorizer, do_version_check=False)
        self.functions = {}

    def submit(self, name, arguments):
        if name not in self.functions:
            self.functions[name] = self.client.register_function(getattr(work, name))
        return [task for part in chunks(arguments) for task in self._submit(self.functions[name], part)]

    def _submit(self, function, arguments):
        batch = self.client.create_batch()
        for argument in arguments:
            batch.add(function, args=(argument,))
        return self.client.batch_run(self.endpoint, batch)["tasks"][function]

    def collect(self, submitted):
        return [
            value
            for at in range(0, len(submitted), RESULTS_PER_REQUEST)
            for value in self._results(submitted[at : at + RESULTS_PER_REQUEST])
        ]

    def _results(self, tasks):
        """Asks for all until none is pending, then alone for what was left out: what failed, and what made the answer too long."""
        while True:
            batch = self.client.get_batch_result(tasks)
            if not any(task["pending"] for task in batch.values()):
                return [batch[task]["result"] if task in batch else self._result(task) for task in tasks]
            time.sleep(PAUSE_SECONDS)

    def _result(self, task):
        from globus_compute_sdk.errors import TaskPending

        while True:
            try:
                return self.client.get_result(task)
            except TaskPending:
                time.sleep(PAUSE_SECONDS)
            except Exception as error:
                return Failed(repr(error))
