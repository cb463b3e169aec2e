"""The unmodified globus-compute-sdk against a running fabric.

Run as a script (functions of an imported module would be serialized by reference):

    python conformance.py

with, in the environment, what `funcx up --json` printed: FUNCX_SERVICE, FUNCX_ENDPOINT_ID, FUNCX_TOKEN,
FUNCX_CLIENT_ID, FUNCX_CLIENT_SECRET, and FUNCX_OTHER_TOKEN, a token of somebody else.

The SDK's `local` address is fixed to http://localhost:5000; where the service listens elsewhere, `http_proxy` leads
there and the requests come in absolute form.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
import uuid

SERVICE = os.environ["FUNCX_SERVICE"]
ENDPOINT = os.environ["FUNCX_ENDPOINT_ID"]
if not SERVICE.endswith(":5000"):
    os.environ["http_proxy"] = SERVICE

import globus_compute_sdk  # noqa: E402
import globus_sdk  # noqa: E402
from globus_compute_sdk import Client, ShellFunction  # noqa: E402
from globus_compute_sdk import serialize  # noqa: E402
from globus_compute_sdk.errors import TaskExecutionFailed, TaskPending  # noqa: E402

PATIENCE_SECONDS = 120
CODE = ["DillCode", "DillCodeSource", "DillCodeTextInspect", "PureSourceTextInspect", "PureSourceDill",
        "CombinedCode", "AllCodeStrategies"]
DATA = ["DillDataBase64", "JSONData", "AllDataStrategies"]


def client(token=os.environ["FUNCX_TOKEN"], **options):
    """A client the short way: three lines in the script (way A)."""
    authorizer = globus_sdk.AccessTokenAuthorizer(token)
    return Client(local_compute_services=True, authorizer=authorizer, **options)


def result_of(gcc, task_id):
    """Polls as SDK users do, until the task has a result or has failed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return gcc.get_result(task_id)
        except TaskPending:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def call(gcc, function, *args, **kwargs):
    function_id = gcc.register_function(function)
    return result_of(gcc, gcc.run(*args, endpoint_id=ENDPOINT, function_id=function_id, **kwargs))


def combine(first, second=2, *rest, **named):
    return {"first": first, "second": second, "rest": list(rest), "named": named}


def divide(a, b):
    return a / b


def unserializable():
    return (n for n in range(3))


def leave():
    import os

    os._exit(7)


def kill_group():
    import os
    import signal

    os.killpg(0, signal.SIGKILL)


def print_much(megabytes):
    for _ in range(megabytes):
        print("x" * (1 << 20))
    return megabytes


def return_much(megabytes):
    return "x" * (megabytes << 20)


def recurse():
    def deeper(n):
        return deeper(n + 1) + 1

    return deeper(0)


def fork_and_return():
    import os
    import time

    if os.fork() == 0:
        time.sleep(3600)
    return "parent"


def sleep(seconds):
    import time

    time.sleep(seconds)
    return seconds


def about_the_task():
    import os

    return os.environ["GC_TASK_UUID"]


class Strategies(unittest.TestCase):
    """Every way to serialize code times every way to serialize data."""

    def test_every_pair(self):
        there = [name for name in CODE if hasattr(serialize, name)]
        data = [name for name in DATA if hasattr(serialize, name)]
        pairs = list(itertools.product(there, data))
        self.assertEqual(len(pairs), 21 if globus_compute_sdk.__version__ >= "4" else 12)
        for code, data in pairs:
            with self.subTest(code=code, data=data):
                gcc = client(
                    code_serialization_strategy=getattr(serialize, code)(),
                    data_serialization_strategy=getattr(serialize, data)(),
                )
                self.assertEqual(
                    call(gcc, combine, "ä", 7, 8, key=[1, {"a": None}]),
                    {"first": "ä", "second": 7, "rest": [8], "named": {"key": [1, {"a": None}]}},
                )


class MainJob(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gcc = client()

    def test_a_task_and_what_is_known_about_it(self):
        function_id = self.gcc.register_function(combine, description="combines", public=False)
        task_id = self.gcc.run(1, endpoint_id=ENDPOINT, function_id=function_id)
        self.assertEqual(result_of(self.gcc, task_id)["first"], 1)
        task = self.gcc.get_task(task_id)
        self.assertEqual((task["pending"], task["status"]), (False, "success"))
        about = self.gcc.get_function(function_id)
        self.assertEqual((about["function_name"], about["description"]), ("combine", "combines"))

    def test_a_task_knows_its_id(self):
        function_id = self.gcc.register_function(about_the_task)
        task_id = self.gcc.run(endpoint_id=ENDPOINT, function_id=function_id)
        self.assertEqual(result_of(self.gcc, task_id), task_id)

    def test_a_batch(self):
        add = self.gcc.register_function(combine)
        div = self.gcc.register_function(divide)
        batch = self.gcc.create_batch()
        for n in range(100):
            batch.add(add, args=(n,), kwargs={"named": n})
        batch.add(div, args=(1, 0))
        tasks = self.gcc.batch_run(ENDPOINT, batch)["tasks"]
        self.assertEqual((len(tasks[add]), len(tasks[div])), (100, 1))
        for n, task_id in enumerate(tasks[add]):
            self.assertEqual(result_of(self.gcc, task_id)["named"], {"named": n})
        with self.assertRaises(TaskExecutionFailed):
            result_of(self.gcc, tasks[div][0])
        # The SDK logs tasks that failed and leaves them out of a batch of results.
        with self.assertLogs("globus_compute_sdk.sdk.client", "ERROR") as logged:
            results = self.gcc.get_batch_result(tasks[add] + tasks[div])
        self.assertEqual(sorted(results), sorted(tasks[add]))
        self.assertFalse(any(result["pending"] for result in results.values()))
        self.assertIn("ZeroDivisionError", logged.output[0])

    def test_source_code(self):
        if not hasattr(self.gcc, "register_source_code"):
            self.skipTest("this SDK cannot register source code")
        function_id = self.gcc.register_source_code("def triple(x):\n    return 3 * x\n", "triple")
        task_id = self.gcc.run(14, endpoint_id=ENDPOINT, function_id=function_id)
        self.assertEqual(result_of(self.gcc, task_id), 42)

    def test_a_shell_function(self):
        shell = ShellFunction("echo {what}; exit 3")
        result = call(self.gcc, shell, what="hello")
        self.assertEqual((result.returncode, result.stdout.strip()), (3, "hello"))

    def test_endpoints(self):
        self.assertEqual(self.gcc.get_endpoint_status(ENDPOINT)["status"], "online")
        self.assertIn(ENDPOINT, [endpoint["uuid"] for endpoint in self.gcc.get_endpoints()])
        self.assertEqual(self.gcc.get_endpoint_metadata(ENDPOINT)["uuid"], ENDPOINT)

    def test_a_deleted_function_is_gone(self):
        function_id = self.gcc.register_function(combine)
        self.gcc.delete_function(function_id)
        with self.assertRaises(globus_sdk.GlobusAPIError) as raised:
            self.gcc.run(1, endpoint_id=ENDPOINT, function_id=function_id)
        self.assertEqual(raised.exception.http_status, 404)


class Failures(unittest.TestCase):
    """What goes wrong in a function reaches its user, and hurts nobody else."""

    @classmethod
    def setUpClass(cls):
        cls.gcc = client()

    def fails(self, function, *args, **options):
        with self.assertRaises(TaskExecutionFailed) as raised:
            call(self.gcc, function, *args, **options)
        return str(raised.exception)

    def tearDown(self):
        self.assertEqual(call(self.gcc, divide, 6, 3), 2, "the endpoint still works")

    def test_a_traceback_shows_the_users_lines(self):
        text = self.fails(divide, 1, 0)
        self.assertIn("ZeroDivisionError: division by zero", text)
        self.assertIn("in divide", text)
        self.assertNotIn("worker.py", text)

    def test_a_result_that_cannot_be_serialized(self):
        self.assertIn("pickle", self.fails(unserializable))

    def test_a_worker_that_exits(self):
        self.assertIn("exited with code 7", self.fails(leave))

    def test_a_worker_that_kills_its_group(self):
        self.assertIn("signal 9", self.fails(kill_group))

    def test_a_hundred_megabytes_on_standard_output(self):
        self.assertEqual(call(self.gcc, print_much, 100), 100)

    def test_a_hundred_megabytes_returned(self):
        text = self.fails(return_much, 100)
        self.assertIn("MaxResultSizeExceeded", text)

    def test_a_recursion_without_end(self):
        self.assertIn("RecursionError", self.fails(recurse))

    def test_a_child_that_outlives_its_task(self):
        self.assertEqual(call(self.gcc, fork_and_return), "parent")

    def test_past_the_walltime(self):
        function_id = self.gcc.register_function(sleep)
        body = {
            "tasks": {function_id: [self.gcc.fx_serializer.pack_buffers(
                [self.gcc.fx_serializer.serialize((3600,)), self.gcc.fx_serializer.serialize({})])]},
            "create_queue": False,
            "resource_specification": {"walltime": 0.2},
        }
        answer = post(f"/v3/endpoints/{ENDPOINT}/submit", body)
        with self.assertRaises(TaskExecutionFailed) as raised:
            result_of(self.gcc, answer["tasks"][function_id][0])
        self.assertIn("walltime", str(raised.exception))


class Refusals(unittest.TestCase):
    """What the service refuses, it refuses with an error that the SDK understands."""

    def refused(self, status, action):
        with self.assertRaises(globus_sdk.GlobusAPIError) as raised:
            action()
        self.assertEqual(raised.exception.http_status, status)
        self.assertTrue(raised.exception.code)
        return raised.exception.message

    def test_unknown_things(self):
        gcc = client()
        nobody = str(uuid.uuid4())
        function_id = gcc.register_function(combine)
        self.assertIn(nobody, self.refused(404, lambda: gcc.run(endpoint_id=ENDPOINT, function_id=nobody)))
        self.assertIn(nobody, self.refused(404, lambda: gcc.run(endpoint_id=nobody, function_id=function_id)))
        self.assertIn(nobody, self.refused(404, lambda: gcc.get_task(nobody)))

    def test_tokens(self):
        self.refused(401, lambda: client("wrong").register_function(combine))

    def test_what_belongs_to_another(self):
        mine, other = client(), client(os.environ["FUNCX_OTHER_TOKEN"])
        private = mine.register_function(combine)
        task_id = mine.run(1, endpoint_id=ENDPOINT, function_id=private)
        result_of(mine, task_id)
        self.refused(403, lambda: other.get_task(task_id))
        self.refused(403, lambda: other.get_function(private))
        self.refused(403, lambda: other.delete_function(private))

    def test_public_functions_are_for_everybody_private_endpoints_are_not(self):
        mine, other = client(), client(os.environ["FUNCX_OTHER_TOKEN"])
        public = mine.register_function(combine, public=True)
        self.assertEqual(other.get_function(public)["function_name"], "combine")
        self.refused(403, lambda: other.run(1, endpoint_id=ENDPOINT, function_id=public))


class NoChangeInTheScript(unittest.TestCase):
    """Only variables (way B): `Client()` as it stands in every published example."""

    SCRIPT = """
import time
from globus_compute_sdk import Client
from globus_compute_sdk.errors import TaskPending
def double(x):
    return 2 * x
gcc = Client()
task = gcc.run(21, endpoint_id={endpoint!r}, function_id=gcc.register_function(double))
while True:
    try:
        print(gcc.get_result(task))
        break
    except TaskPending:
        time.sleep(0.01)
"""

    def test_a_script_that_knows_nothing_of_us(self):
        with tempfile.TemporaryDirectory() as home:
            script = os.path.join(home, "script.py")
            with open(script, "w") as file:
                file.write(self.SCRIPT.format(endpoint=ENDPOINT))
            variables = {
                **os.environ,
                "HOME": home,
                "GLOBUS_COMPUTE_USER_DIR": home,
                "GLOBUS_SDK_ENVIRONMENT": "local",
                "GLOBUS_SDK_SERVICE_URL_AUTH": SERVICE + "/",
                "GLOBUS_COMPUTE_CLIENT_ID": os.environ["FUNCX_CLIENT_ID"],
                "GLOBUS_COMPUTE_CLIENT_SECRET": os.environ["FUNCX_CLIENT_SECRET"],
            }
            # Twice: the second time with the token that the first one stored.
            for _ in range(2):
                done = subprocess.run([sys.executable, script], env=variables, capture_output=True, text=True)
                self.assertEqual((done.stdout, done.returncode), ("42\n", 0), done.stderr)


def post(path, body):
    request = urllib.request.Request(
        SERVICE + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["FUNCX_TOKEN"]},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as answer:
        return json.load(answer)


if __name__ == "__main__":
    print("globus-compute-sdk", globus_compute_sdk.__version__, "against", SERVICE, flush=True)
    unittest.main(verbosity=2)
