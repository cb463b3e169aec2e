"""funcx from Python without any package: requests against our own routes, as `/openapi.json` describes them."""
import http.client
import inspect
import json
from urllib.parse import urlsplit

from .. import work
from .base import Failed, Unsupported
from .funcx_fabric import Fabric, chunks

#: Calls in one task, where tasks map their function.
CALLS_PER_TASK = 100
#: Small events end at least so often.
LOOK_BYTES = 2048


class System(Fabric):
    def start(self):
        super().start()
        self.functions = {}
        self.connection = self._connect()
        self.maps = self.setup.variant == "map"
        if self.maps and b'"chunk"' not in self._ask(self.connection, "GET", "/openapi.json").read():
            raise Unsupported("this funcx takes no chunks of calls")

    def _connect(self):
        return http.client.HTTPConnection(urlsplit(self.service).netloc, timeout=120)

    def _ask(self, connection, method, path, body=None):
        headers = {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.read(1000).decode(errors='replace')}")
        return answer

    def _json(self, method, path, value=None):
        body = None if value is None else json.dumps(value).encode()
        return json.loads(self._ask(self.connection, method, path, body).read())

    def _function(self, name, kind, **code):
        if name not in self.functions:
            registered = self._json("POST", "/v1/functions", {"name": name, "kind": kind, **code})
            self.functions[name] = registered["function_id"]
        return self.functions[name]

    def submit(self, name, arguments):
        return self._submit(self._function(name, "python", entry=name, code=inspect.getsource(work)), arguments)

    def submit_spawn(self, paths):
        return self._submit(self._function("touch {}", "shell", code="touch {}"), paths)

    def _submit(self, function, arguments):
        group, ids = None, []
        for chunk in chunks(arguments):
            calls = {"function_id": function, "arguments": [{"args": [argument]} for argument in chunk]}
            if self.maps:
                calls["chunk"] = CALLS_PER_TASK
            request = {"endpoint_id": self.endpoint, "tasks": [calls]}
            if group:
                request["task_group_id"] = group
            answer = self._json("POST", "/v1/submit", request)
            group = answer["task_group_id"]
            ids += answer["task_ids"][0]
        return group, ids

    def collect(self, submitted):
        """From the stream of events of the group."""
        group, ids = submitted
        values, connection = {}, self._connect()
        try:
            stream = self._ask(connection, "GET", f"/v1/task_groups/{group}/events")
            for task in outcomes(stream):
                values[task["task_id"]] = value(task)
                if len(values) == len(ids):
                    break
        finally:
            connection.close()
        found = [values.get(id, Failed("the stream of events ended early")) for id in ids]
        return [one for many in found for one in many] if self.maps else found

    def call(self, name, argument):
        """One request to submit, one that is answered when the task has ended."""
        _, (task,) = self.submit(name, [argument])
        while True:
            view = self._json("GET", f"/v1/tasks/{task}?wait=30")
            if view["status"] == "finished":
                done = value(view)
                return done[0] if isinstance(done, list) and self.maps else done

    def collect_spawn(self, submitted):
        """Whether each command ended well."""
        return [isinstance(done, dict) and done["returncode"] == 0 for done in self.collect(submitted)]


def outcomes(stream):
    """Tasks from server-sent events."""
    pieces = []
    while piece := stream.read1(1 << 18):
        pieces.append(piece)
        # Large events come in many pieces, which are put together once; their end may fall between two of them. The last
        # piece ends with the end of an event, so that it is enough to look at the ends of pieces.
        if b"\n" not in piece[-LOOK_BYTES:]:
            continue
        *events, rest = b"".join(pieces).split(b"\n\n")
        pieces = [rest]
        for event in events:
            # The data, which may be long, is the last of three fields.
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n", 2) if b": " in line[:LOOK_BYTES])
            if fields.get(b"event") == b"outcome":
                yield json.loads(fields[b"data"])


def value(task):
    """What a task returned, or why it did not."""
    if task["outcome"] == "returned":
        return unmapped(task["result"]) if task.get("map") else task["result"]
    return Failed((task.get("failure") or {}).get("message", task["outcome"]))


def unmapped(result):
    """The values of the calls of one task."""
    failures = {int(place): Failed(why["message"]) for place, why in result.get("failures", {}).items()}
    return [failures.get(place, value) for place, value in enumerate(result["values"])]
