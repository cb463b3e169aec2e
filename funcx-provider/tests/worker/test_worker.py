"""Tests of worker.py with real processes and sockets.

    python tests/worker/test_worker.py

They need nothing but the standard library. Where dill and globus-compute-sdk are installed, the strategies that need
them are tested as well, against the SDK itself.

Nothing here sleeps or measures time. Where a task has to be in the middle of something, it waits on a FIFO that the
test opens when it has seen what it wanted to see. The timeout below only keeps a broken worker from blocking a run
forever.
"""

import ast
import base64
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import unittest
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
WORKER = os.path.join(HERE, "..", "..", "src", "worker", "worker.py")
VECTORS = os.path.join(HERE, "..", "data", "globus_compute", "serialization_vectors.json")
TIMEOUT_S = 60

HAS_DILL = importlib.util.find_spec("dill") is not None
HAS_SDK = importlib.util.find_spec("globus_compute_sdk") is not None
needs_dill = unittest.skipUnless(HAS_DILL, "dill is not installed")
needs_sdk = unittest.skipUnless(HAS_SDK, "globus-compute-sdk is not installed")

PYTHON_SOURCE, GLOBUS_COMPUTE = 1, 2
RETURNED, RAISED = 0, 1
ANNOUNCE, MAP = 1, 2

TASK_HEAD = struct.Struct("<Q16sIIII")
OUTCOME_HEAD = struct.Struct("<QBxxxIIIQQ")


def frame(kind, body=b""):
    return struct.pack("<IB", 1 + len(body), ord(kind)) + body


def function_frame(index, kind, body, entry=""):
    if isinstance(body, str):
        body = body.encode()
    return frame("F", struct.pack("<IBI", index, kind, len(entry)) + entry.encode() + body)


def framed(*buffers):
    """Buffers in the framing of Globus Compute, whose lengths are code points."""
    return "".join(f"{len(buffer)}\n{buffer}" for buffer in buffers).encode()


class Task:
    def __init__(self, tag, function=1, payload=b"", flags=0, task_id=None, **options):
        self.tag, self.function, self.payload, self.flags = tag, function, payload, flags
        self.task_id = task_id or uuid.uuid4()
        self.options = json.dumps(options).encode() if options else b""

    def head(self):
        sizes = len(self.options), len(self.payload)
        return TASK_HEAD.pack(self.tag, self.task_id.bytes, self.function, self.flags, *sizes)


def tasks_frame(*tasks):
    contents = [task.options + task.payload for task in tasks]
    return frame("T", b"".join([struct.pack("<I", len(tasks)), *(task.head() for task in tasks), *contents]))


def json_payload(*args, **kwargs):
    return json.dumps({"args": args, "kwargs": kwargs}).encode()


class Outcome:
    def __init__(self, tag, kind, payload, stdout, stderr, started, ended):
        self.tag, self.kind, self.payload = tag, kind, payload
        self.stdout, self.stderr, self.started, self.ended = stdout, stderr, started, ended

    @property
    def value(self):
        """What a function of kind 1 has returned."""
        assert self.kind == RETURNED, self.payload.decode()
        return json.loads(self.payload)

    @property
    def text(self):
        """The buffer that a function of kind 2 has returned."""
        assert self.kind == RETURNED, self.payload.decode()
        return self.payload.decode()

    @property
    def error(self):
        assert self.kind == RAISED, self.payload.decode()
        return json.loads(self.payload)


def unpack_outcomes(body):
    (count,) = struct.unpack_from("<I", body)
    position = 4 + count * OUTCOME_HEAD.size
    outcomes = []
    for head in OUTCOME_HEAD.iter_unpack(body[4:position]):
        tag, kind, *sizes, started, ended = head
        contents = []
        for size in sizes:
            contents.append(body[position : position + size])
            position += size
        outcomes.append(Outcome(tag, kind, *contents, started, ended))
    assert position == len(body)
    return outcomes


class Connection:
    """The manager's end of a worker's connection."""

    def __init__(self, sock):
        sock.settimeout(TIMEOUT_S)
        self.sock, self.file = sock, sock.makefile("rb")
        self.pending = []

    def close(self):
        self.file.close()
        self.sock.close()

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def receive(self):
        """(kind, body) of the next frame; None at the end."""
        try:
            head = self.file.read(5)
        except ConnectionResetError:  # The worker was killed with something left to read.
            head = b""
        if not head:
            return None
        length, kind = struct.unpack("<IB", head)
        return chr(kind), self.file.read(length - 1)

    def outcome(self):
        while not self.pending:
            kind, body = self.receive()
            assert kind == "O", kind
            self.pending = unpack_outcomes(body)
        return self.pending.pop(0)

    def run(self, **task):
        """The outcome of one task."""
        self.send(tasks_frame(Task(0, **task)))
        return self.outcome()


class WorkerTest(unittest.TestCase):
    """A directory, a listening socket, and ways to get a worker that is connected to it."""

    max_result_bytes, max_output_bytes = 10 << 20, 1 << 20

    def setUp(self):
        self.directory = self.enter(tempfile.TemporaryDirectory())
        self.work_dir = os.path.join(self.directory, "work", "dir")
        self.socket_path = os.path.join(self.directory, "s")
        self.listener = self.enter(contextlib.closing(socket.socket(socket.AF_UNIX)))
        self.listener.settimeout(TIMEOUT_S)
        self.listener.bind(self.socket_path)
        self.listener.listen()

    def enter(self, context):
        result = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return result

    def start(self, worker_id=7, **popen):
        """A worker of its own process. It ends, at the latest, when its connection does."""
        environment = dict(os.environ, FUNCX_WORKER_SOCKET=self.socket_path, FUNCX_WORKER_ID=str(worker_id))
        self.process = subprocess.Popen([sys.executable, WORKER, "worker"], env=environment, **popen)
        self.addCleanup(self.process.wait, TIMEOUT_S)
        return self.accept()

    def accept(self):
        connection = self.enter(contextlib.closing(Connection(self.listener.accept()[0])))
        kind, body = connection.receive()
        self.assertEqual(kind, "H")
        connection.hello = json.loads(body)
        welcome = {
            "max_result_bytes": self.max_result_bytes,
            "max_output_bytes": self.max_output_bytes,
            "work_dir": self.work_dir,
            "endpoint_id": None,
        }
        connection.send(frame("W", json.dumps(welcome).encode()))
        return connection

    def start_with(self, source, entry="f"):
        """A worker that knows the Python source as function 1."""
        connection = self.start()
        connection.send(function_frame(1, PYTHON_SOURCE, textwrap.dedent(source), entry))
        return connection

    def fifo(self, name="fifo"):
        path = os.path.join(self.directory, name)
        os.mkfifo(path)
        return path

    def assert_alive(self, connection):
        """The worker still works, and owes nothing."""
        connection.send(function_frame(99, PYTHON_SOURCE, "def ok(): return 'ok'", "ok"))
        self.assertEqual(connection.run(function=99).value, "ok")


class Protocol(WorkerTest):
    def test_hello(self):
        hello = self.start(worker_id=41).hello
        details = hello.pop("details")
        self.assertEqual(hello, {"protocol": 1, "worker": 41, "pid": self.process.pid, "language": "python"})
        self.assertEqual(details["python_version"], sys.version.split()[0])
        self.assertEqual(details["dill_version"] is not None, HAS_DILL)
        self.assertEqual(details["globus_compute_sdk_version"] is not None, HAS_SDK)
        self.assertTrue(details["os"])

    def test_abstract_socket(self):
        if sys.platform != "linux":
            self.skipTest("abstract sockets are of Linux")
        name = f"@funcx-test-{uuid.uuid4()}"
        self.listener.close()
        self.listener = self.enter(contextlib.closing(socket.socket(socket.AF_UNIX)))
        self.listener.settimeout(TIMEOUT_S)
        self.listener.bind("\0" + name[1:])
        self.listener.listen()
        self.socket_path = name
        self.assert_alive(self.start())

    def test_exit_comes_after_the_work(self):
        connection = self.start_with("def f(): return 1")
        connection.send(tasks_frame(Task(5), Task(6)), frame("X"))
        self.assertEqual([connection.outcome().tag, connection.outcome().tag], [5, 6])
        self.assertIsNone(connection.receive())
        self.assertEqual(self.process.wait(TIMEOUT_S), 0)

    def test_end_of_connection_ends_the_worker(self):
        self.start().close()
        self.assertEqual(self.process.wait(TIMEOUT_S), 0)

    def test_frames_may_come_in_pieces(self):
        connection = self.start()
        whole = function_frame(1, PYTHON_SOURCE, "def f(x): return x", "f") + tasks_frame(
            Task(1, payload=json_payload("a")), Task(2, payload=json_payload("b"))
        )
        for byte in whole:
            connection.send(bytes([byte]))
        self.assertEqual([connection.outcome().value, connection.outcome().value], ["a", "b"])

    def test_long_texts_are_returned_as_the_encoder_writes_them(self):
        connection = self.start_with("def f(before, text, after): return before * 70_000 + text + after * 5_000")
        for character in [*map(chr, range(0x100)), "\u2028", "\ud800", "\U0001f600"]:
            for before, after in (("x", ""), ("", "x")):
                outcome = connection.run(payload=json_payload(before, character, after))
                expected = before * 70_000 + character + after * 5_000
                self.assertEqual(outcome.payload, json.dumps(expected).encode(), repr(character))

    def test_a_payload_larger_than_the_receive_buffer(self):
        connection = self.start_with("def f(text): return text[-3:], len(text)")
        for size in (6 << 20, 5, 1 << 20, 8 << 20):
            outcome = connection.run(payload=json_payload("x" * size + "end"))
            self.assertEqual(outcome.value, ["end", size + 3])

    def test_outcomes_of_quick_tasks_travel_together(self):
        connection = self.start_with("def f(i): return i")
        count = 5000
        connection.send(*(tasks_frame(Task(i, payload=json_payload(i))) for i in range(count)))
        frames, values = 0, []
        while len(values) < count:
            kind, body = connection.receive()
            self.assertEqual(kind, "O")
            frames += 1
            values += [outcome.value for outcome in unpack_outcomes(body)]
        self.assertEqual(values, list(range(count)))
        self.assertLess(frames, count)

    def test_times_of_a_batch_do_not_overlap(self):
        connection = self.start_with("def f(): return None")
        connection.send(tasks_frame(*(Task(i) for i in range(100))))
        outcomes = [connection.outcome() for _ in range(100)]
        times = [time for outcome in outcomes for time in (outcome.started, outcome.ended)]
        self.assertEqual(times, sorted(times))

    def test_announced_task_comes_after_earlier_outcomes(self):
        fifo = self.fifo()
        connection = self.start_with("""
            def f(path=None):
                if path:
                    open(path).close()
            """)
        connection.run()
        connection.send(
            tasks_frame(Task(1), Task(2), Task(3, payload=json_payload(fifo), flags=ANNOUNCE), Task(4, flags=ANNOUNCE))
        )
        events = []
        while ("S", 3) not in events:
            kind, body = connection.receive()
            if kind == "S":
                events.append((kind, struct.unpack("<Q", body)[0]))
            else:
                events += [(kind, outcome.tag) for outcome in unpack_outcomes(body)]
        self.assertEqual(events, [("O", 1), ("O", 2), ("S", 3)])
        open(fifo, "w").close()  # Only now may task 3 go on.
        self.assertEqual(connection.outcome().tag, 3)
        self.assertEqual(connection.receive(), ("S", struct.pack("<Q", 4)))
        self.assertEqual(connection.outcome().tag, 4)

    def test_tasks_behind_a_long_one_are_given_back(self):
        fifo, log = self.fifo(), os.path.join(self.directory, "log")
        connection = self.start_with(f"""
            def f(i, wait=False):
                if wait:
                    open({fifo!r}).read()
                open({log!r}, "a").write(str(i))
                return i
            """)
        connection.run(payload=json_payload(0))
        tasks = [Task(i, payload=json_payload(i, i == 2)) for i in range(1, 5)]
        connection.send(tasks_frame(*tasks), tasks_frame(Task(5, payload=json_payload(5))))
        with open(fifo, "w"):  # Returns when task 2 is there.
            os.kill(self.process.pid, signal.SIGURG)
            self.assertEqual(connection.outcome().tag, 1)
            self.assertEqual(connection.receive(), ("G", struct.pack("<Q", 2)))
            # Once is enough, and what comes before the answer belongs to what was given back.
            os.kill(self.process.pid, signal.SIGURG)
            connection.send(tasks_frame(Task(6, payload=json_payload(6))), frame("R"))
            connection.send(tasks_frame(Task(7, payload=json_payload(7))))
        self.assertEqual([connection.outcome().tag, connection.outcome().tag], [2, 7])
        with open(log) as file:
            self.assertEqual(file.read(), "0127")

    def test_between_tasks_nothing_is_given_back(self):
        connection = self.start_with("def f(): return 1")
        for tag in range(200):
            os.kill(self.process.pid, signal.SIGURG)
            connection.send(tasks_frame(Task(tag)))
            self.assertEqual(connection.outcome().tag, tag)

    def test_an_outcome_does_not_wait_for_a_new_function(self):
        fifo = self.fifo()
        connection = self.start_with("def f(): return 1")
        connection.run()
        connection.run()
        connection.send(function_frame(2, PYTHON_SOURCE, f"def g(): open({fifo!r}).close()", "g"))
        connection.send(tasks_frame(Task(1), Task(2, function=2)))
        self.assertEqual(connection.outcome().tag, 1)
        open(fifo, "w").close()
        self.assertEqual(connection.outcome().tag, 2)

    def test_functions_are_replaced_and_dropped(self):
        connection = self.start_with("def f(): return 1")
        self.assertEqual(connection.run().value, 1)
        connection.send(function_frame(1, PYTHON_SOURCE, "def g(): return 2", "g"))
        self.assertEqual(connection.run().value, 2)
        connection.send(frame("D", struct.pack("<I", 1)), frame("D", struct.pack("<I", 1234)))
        error = connection.run().error
        self.assertEqual(error["code"], "CouldNotExecuteUserTaskError")
        self.assertIn("a function that this worker was not given", error["message"])
        self.assert_alive(connection)

    def test_a_function_of_unknown_kind_fails_its_tasks(self):
        connection = self.start()
        connection.send(function_frame(1, 77, "?"))
        self.assertIn("kind 77", connection.run().error["message"])
        self.assert_alive(connection)

    def test_protocol_errors_end_the_worker_with_a_message(self):
        head = Task(1).head()
        cases = [
            (struct.pack("<IB", (256 << 20) + 1, ord("T")), "a frame of 268435457 bytes"),
            (struct.pack("<IB", 0, ord("T")), "a frame of 0 bytes"),
            (frame("?"), "unknown kind 63"),
            (frame("W", b"{}"), "unknown kind"),
            (frame("F", b"\0"), ""),
            (frame("F", struct.pack("<IBI", 1, 1, 5) + b"four"), "shorter than it says"),
            (frame("D", b"\0"), ""),
            (frame("T", struct.pack("<I", 2) + head), ""),
            (frame("T", struct.pack("<I", 1) + TASK_HEAD.pack(1, bytes(16), 1, 0, 0, 5)), "shorter than it says"),
            (frame("T", struct.pack("<I", 1) + head + b"rest"), "longer than it says"),
        ]
        for malformed, message in cases:
            with self.subTest(malformed=malformed[:20]):
                connection = self.start(stderr=subprocess.PIPE, universal_newlines=True)
                connection.send(malformed)
                stderr = self.process.communicate(timeout=TIMEOUT_S)[1]
                self.assertEqual(self.process.returncode, 2)
                self.assertIn("funcx worker 7: protocol error: ", stderr)
                self.assertIn(message, stderr)

    def test_refused_welcome(self):
        self.max_result_bytes = 300 << 20
        self.start(stderr=subprocess.PIPE, universal_newlines=True)
        self.assertIn("would not fit", self.process.communicate(timeout=TIMEOUT_S)[1])
        self.assertEqual(self.process.returncode, 2)

    def test_no_manager(self):
        environment = dict(os.environ, FUNCX_WORKER_SOCKET=self.socket_path + "-none", FUNCX_WORKER_ID="1")
        done = subprocess.run([sys.executable, WORKER, "worker"], env=environment, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"FileNotFoundError", done.stderr)

    def test_usage(self):
        done = subprocess.run([sys.executable, WORKER], stderr=subprocess.PIPE)
        self.assertEqual((done.returncode, done.stderr), (2, b"usage: worker.py zygote | worker.py worker\n"))

    @unittest.skipIf(sys.version_info < (3, 8), "ast.parse cannot be told an older version")
    def test_an_old_python_can_parse_the_file(self):
        # Otherwise it would show a SyntaxError in place of the line that says which version is needed.
        with open(WORKER, encoding="utf-8") as file:
            ast.parse(file.read(), feature_version=(3, 6))


class PythonSource(WorkerTest):
    def test_values(self):
        connection = self.start_with("def f(x): return x")
        text = 'é\n"\u2028\U0001f600'
        for value in (None, True, 0, -7, 10**30, 1.5, "", text, [], {}, [1, [2, {"k": None}]], {"a": [1]}):
            with self.subTest(value=value):
                self.assertEqual(connection.run(payload=json_payload(value)).value, value)

    def test_arguments(self):
        connection = self.start_with("def f(*args, **kwargs): return [args, kwargs]")
        cases = [
            (b"", [[], {}]),
            (b"{}", [[], {}]),
            (b'{"args":[1]}', [[1], {}]),
            (b'{"kwargs":{"a":2}}', [[], {"a": 2}]),
            (b' {"args": [1, 2], "kwargs": {"a": 2}}\n', [[1, 2], {"a": 2}]),
            ('{"args":["é"]}'.encode(), [["é"], {}]),
        ]
        for payload, value in cases:
            with self.subTest(payload=payload):
                self.assertEqual(connection.run(payload=payload).value, value)

    def test_malformed_arguments(self):
        connection = self.start_with("def f(*args, **kwargs): return 1")
        deep = b"[" * 200_000
        for payload in (b"{", b"[]", b"1", b"{} {}", b'{"args":1}', b'{"args":null}', b'{"kwargs":[]}', b"\xff", deep):
            with self.subTest(payload=payload[:20]):
                error = connection.run(payload=payload).error
                self.assertEqual(error["code"], "CouldNotExecuteUserTaskError")
                self.assertIn("the arguments are not", error["message"])
        self.assert_alive(connection)

    def test_the_traceback_is_the_user_s(self):
        connection = self.start_with("""\
            def divide(x):
                return 1 / x

            def f(x):
                return divide(x)
            """)
        error = connection.run(payload=json_payload(0)).error
        self.assertEqual(error["code"], "RemoteExecutionError")
        self.assertEqual(error["message"], "An error occurred during the execution of this task")
        lines = [line for line in error["traceback"].splitlines() if set(line) - set(" ^~")]
        expected = [
            "Traceback (most recent call last):",
            '  File "<function 1>", line 5, in f',
            "    return divide(x)",
            '  File "<function 1>", line 2, in divide',
            "    return 1 / x",
            "ZeroDivisionError: division by zero",
        ]
        self.assertEqual(lines, expected)

    def test_wrong_arguments(self):
        connection = self.start_with("def f(): return 1")
        self.assertIn("TypeError: f() takes 0", connection.run(payload=json_payload(1)).error["traceback"])

    def test_whatever_is_raised_the_worker_goes_on(self):
        cases = {
            "import sys; sys.exit(3)": "SystemExit: 3",
            "raise KeyboardInterrupt": "KeyboardInterrupt",
            "raise MemoryError": "MemoryError",
            "raise OSError('\\udce9')": "OSError: \\udce9",
            "raise GeneratorExit": "GeneratorExit",
            "f()": "RecursionError",
            "import signal; signal.raise_signal(signal.SIGINT)": "KeyboardInterrupt",
            "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()": ".E: <",
        }
        for body, text in cases.items():
            with self.subTest(body=body):
                connection = self.start_with(f"def f():\n    {body}\n")
                error = connection.run().error
                self.assertEqual(error["code"], "RemoteExecutionError")
                self.assertIn(text, error["traceback"])
                self.assert_alive(connection)

    def test_a_huge_error_message_is_bounded(self):
        connection = self.start_with("def f(): raise ValueError('x' * (50 << 20) + 'end')")
        text = connection.run().error["traceback"]
        self.assertLess(len(text), 300_000)
        self.assertTrue(text.startswith("Traceback") and text.endswith("end\n") and "characters dropped" in text)

    def test_values_that_are_not_json(self):
        for expression in ("{1, 2}", "float('nan')", "[float('inf')]", "object()", "(lambda l: l.append(l) or l)([])"):
            with self.subTest(expression=expression):
                connection = self.start_with(f"def f(): return {expression}")
                error = connection.run().error
                self.assertEqual(error["code"], "RemoteExecutionError")
                self.assertIn("SerializationError: the returned value cannot be written as JSON", error["traceback"])

    def test_functions_that_cannot_be_loaded(self):
        cases = [
            ("def f(:", "RemoteExecutionError", "SyntaxError"),
            ("import no_such_module", "RemoteExecutionError", "No module named 'no_such_module'"),
            ("raise KeyError('f')", "RemoteExecutionError", "KeyError"),
            ("def g(): pass", "CouldNotExecuteUserTaskError", "defines no callable named 'f'"),
            ("f = 1", "CouldNotExecuteUserTaskError", "defines no callable named 'f'"),
        ]
        for source, code, text in cases:
            with self.subTest(source=source):
                connection = self.start_with(source)
                for _ in range(2):  # It is tried again, with the same end.
                    error = connection.run().error
                    self.assertEqual(error["code"], code)
                    self.assertIn(text, error["traceback"])
                self.assert_alive(connection)

    def test_source_is_a_module_of_its_own(self):
        connection = self.start_with("""
            from __future__ import annotations
            import dataclasses, pickle, typing

            @dataclasses.dataclass
            class Point:
                x: typing.ClassVar[int] = 1
                y: int = 2

            counter = 0

            def f():
                global counter
                counter += 1
                return [dataclasses.asdict(pickle.loads(pickle.dumps(Point()))), counter, __name__ == "__main__"]
            """)
        self.assertEqual(connection.run().value, [{"y": 2}, 1, False])
        self.assertEqual(connection.run().value, [{"y": 2}, 2, False])

    def test_main_is_empty(self):
        connection = self.start_with("def f(): import __main__; return [n for n in vars(__main__) if n[:2] != '__']")
        self.assertEqual(connection.run().value, [])

    def test_no_module_beside_the_worker_can_be_imported(self):
        connection = self.start_with("def f(): import worker")
        self.assertIn("No module named 'worker'", connection.run().error["traceback"])

    def test_result_limit(self):
        self.max_result_bytes = 100
        connection = self.start_with("def f(n): return 'x' * n")
        self.assertEqual(connection.run(payload=json_payload(98)).value, "x" * 98)
        error = connection.run(payload=json_payload(99)).error
        self.assertEqual(error["code"], "MaxResultSizeExceeded")
        self.assertEqual(error["message"], "remote error: Task result of 101B exceeded current limit of 100B")


def map_payload(*elements):
    return json.dumps(elements).encode()


class Map(WorkerTest):
    def map(self, connection, *elements, flags=MAP, **task):
        value = connection.run(payload=map_payload(*elements), flags=flags, **task).value
        self.assertEqual(len(value["values"]), len(elements))
        return value["values"], {int(index): failure for index, failure in value["failures"].items()}

    def test_each_element_is_a_call(self):
        connection = self.start_with("def f(*args, **kwargs): return [list(args), kwargs] if args or kwargs else None")
        values, failures = self.map(connection, {}, {"args": [1]}, {"kwargs": {"a": 2}}, {"args": [3], "kwargs": {}})
        self.assertEqual((values, failures), ([None, [[1], {}], [[], {"a": 2}], [[3], {}]], {}))
        self.assertEqual(self.map(connection), ([], {}))
        self.assertEqual(connection.run(payload=json_payload(5)).value, [[5], {}])

    def test_values_of_every_kind_keep_their_places(self):
        connection = self.start_with("def f(value): return value")
        for given in ([None, True, 2, -3.5], ["é\n", [1, {"a": None}], {}, "", 7, False, [[]]]):
            self.assertEqual(self.map(connection, *({"args": [value]} for value in given)), (given, {}))

    def test_a_value_is_what_it_was_when_the_call_returned(self):
        connection = self.start_with("seen = []\ndef f(i):\n    seen.append(i)\n    return seen")
        values, _ = self.map(connection, *({"args": [i]} for i in range(3)))
        self.assertEqual(values, [[0], [0, 1], [0, 1, 2]])

    def test_one_bad_element_fails_alone(self):
        connection = self.start_with("""
            import sys

            def f(i):
                if i == 1:
                    raise ValueError("oh dear")
                if i == 2:
                    return {1, 2}
                if i == 3:
                    sys.exit(3)
                if i == 4:
                    raise StopIteration
                if i == 5:
                    return float("nan")
                return i
            """)
        malformed = [[], 7, {"args": 3}, {"args": None}, {"kwargs": []}, "x", {"args": [0], "kwargs": {"j": 1}}, {}]
        elements = [{"args": [i]} for i in range(7)] + malformed
        for _ in range(2):
            values, failures = self.map(connection, *elements)
            self.assertEqual(values, [0, None, None, None, None, None, 6] + [None] * len(malformed))
            self.assertEqual(sorted(failures), [1, 2, 3, 4, 5, *range(7, len(elements))])
            self.assertEqual({failures[i]["code"] for i in (1, 2, 3, 4, 5, 13, 14)}, {"RemoteExecutionError"})
            self.assertEqual({failures[i]["code"] for i in range(7, 13)}, {"CouldNotExecuteUserTaskError"})
        self.assertRegex(failures[1]["traceback"], r'^Traceback .*\n  File "<function 1>", line \d+, in f\n')
        for index, word in ((2, "JSON"), (3, "SystemExit"), (4, "StopIteration"), (5, "JSON"), (14, "missing 1")):
            self.assertIn(word, failures[index]["traceback"])
        self.assertIn("not of the form", failures[9]["message"])

    def test_what_fails_the_whole_task(self):
        connection = self.start_with("def f(): return 1")
        for payload, word in ((b"", "not JSON"), (b"{}", "array"), (b"[1", "not JSON"), (b"\xff", "not JSON")):
            error = connection.run(payload=payload, flags=MAP).error
            self.assertEqual(error["code"], "CouldNotExecuteUserTaskError")
            self.assertIn(word, error["message"])
        connection.send(function_frame(2, PYTHON_SOURCE, "1 +", "f"))
        self.assertIn("SyntaxError", connection.run(function=2, payload=b"[{}]", flags=MAP).error["traceback"])
        self.assertIn("not given", connection.run(function=3, payload=b"[{}]", flags=MAP).error["message"])

    def test_a_flag_that_is_not_known_fails_the_task(self):
        connection = self.start_with("def f(): return 1")
        for flags in (4, 4 | ANNOUNCE, 4 | MAP, 1 << 31):
            connection.send(tasks_frame(Task(1, payload=b"[]", flags=flags)))
            if flags & ANNOUNCE:
                self.assertEqual(connection.receive()[0], "S")
            error = connection.outcome().error
            self.assertEqual(error["code"], "CouldNotExecuteUserTaskError")
            self.assertIn("flags", error["message"])

    def test_sizes(self):
        self.max_result_bytes = 4000
        connection = self.start_with("def f(n): return 'x' * n if n else 1.5")
        calls = lambda *sizes: [{"args": [size]} for size in sizes]
        # One that is too large, beside others.
        values, failures = self.map(connection, *calls(5, 4000, 6))
        self.assertEqual((values, [*failures]), (["xxxxx", None, "xxxxxx"], [1]))
        self.assertEqual(failures[1]["message"], "remote error: Task result of 4002B exceeded current limit of 4000B")
        # Those that do not fit any more, and smaller ones behind them.
        for sizes in ([1200] * 5, [1200, 1200, 1200, 1200, 0], [0, 1500, 1500, 1500], [3960, 0, 0, 0], [0] * 100 + [3500]):
            outcome = connection.run(payload=map_payload(*calls(*sizes)), flags=MAP)
            self.assertLessEqual(len(outcome.payload), 4000)
            value = outcome.value
            self.assertGreaterEqual(len(value["failures"]), 1, sizes)
            self.assertLess(len(value["failures"]), len(sizes))
            for index, (size, found) in enumerate(zip(sizes, value["values"])):
                if str(index) in value["failures"]:
                    self.assertEqual(value["failures"][str(index)]["code"], "MaxResultSizeExceeded")
                    self.assertIn("smaller chunks", value["failures"][str(index)]["message"])
                else:
                    self.assertEqual(found, "x" * size if size else 1.5)
        # Exactly as much as there is room for.
        room = 4000 - len(b'{"values": [""], "failures": {}}')
        self.assertEqual(self.map(connection, *calls(room)), (["x" * room], {}))
        # Not even nulls fit.
        error = connection.run(payload=map_payload(*calls(*[0] * 2000)), flags=MAP).error
        self.assertEqual(error["code"], "MaxResultSizeExceeded")
        self.assertIn("smaller chunks", error["message"])

    def test_tracebacks_leave_room_for_values(self):
        self.max_result_bytes = 100_000
        connection = self.start_with("def f(i):\n    if i % 2: raise ValueError('y' * 50_000)\n    return 'x' * 300")
        values, failures = self.map(connection, *({"args": [i]} for i in range(100)))
        self.assertEqual(values, ["x" * 300, None] * 50)
        self.assertEqual({failure["code"] for failure in failures.values()}, {"RemoteExecutionError"})
        self.assertGreater(len(failures[1]["traceback"]), 10_000)

    def test_output_and_surroundings(self):
        connection = self.start_with("""
            import os

            def f(move):
                print("in", flush=True)
                if move:
                    os.chdir("/")
                return os.getcwd(), os.environ.get("NAME")
            """)
        task = Task(1, payload=map_payload({"args": [False]}, {"args": [True]}, {"args": [False]}), flags=MAP)
        connection.send(tasks_frame(task))
        outcome = connection.outcome()
        self.assertEqual(outcome.stdout, b"in\n" * 3)
        here = [self.work_dir, None]
        self.assertEqual(outcome.value["values"], [here, ["/", None], here])
        sandbox = os.path.join(self.work_dir, str(task.task_id))
        value = connection.run(
            payload=task.payload, flags=MAP, task_id=task.task_id, sandbox=True, env={"NAME": "x"}
        ).value
        self.assertEqual(value["values"], [[sandbox, "x"], ["/", "x"], [sandbox, "x"]])
        self.assertEqual(connection.run(payload=json_payload(False)).value, here)

    def test_a_forked_child_ends_where_it_returns(self):
        connection = self.start_with("""
            import os

            def f(raises):
                pid = os.fork()
                if pid:
                    return os.waitpid(pid, 0)[1] >> 8
                if raises:
                    raise ValueError
            """)
        values, failures = self.map(connection, {"args": [False]}, {"args": [True]}, {"args": [False]})
        self.assertEqual((values, failures), ([0, 1, 0], {}))

    def test_a_long_map_is_announced_and_gives_back_what_stands_behind_it(self):
        fifo = self.fifo()
        connection = self.start_with(f"""
            def f(wait=False):
                if wait:
                    open({fifo!r}).read()
            """)
        connection.run()
        long = Task(1, payload=map_payload({}, {"args": [True]}, {}), flags=MAP | ANNOUNCE)
        connection.send(tasks_frame(long, Task(2, payload=b"[{}]", flags=MAP), Task(3)))
        self.assertEqual(connection.receive(), ("S", struct.pack("<Q", 1)))
        with open(fifo, "w"):
            os.kill(self.process.pid, signal.SIGURG)
            self.assertEqual(connection.receive(), ("G", struct.pack("<Q", 1)))
        self.assertEqual(connection.outcome().value, {"values": [None] * 3, "failures": {}})
        connection.send(frame("R"), tasks_frame(Task(4, payload=b"[{}]", flags=MAP)))
        self.assertEqual(connection.outcome().value, {"values": [None], "failures": {}})

    def test_outcomes_of_quick_maps_travel_together(self):
        connection = self.start_with("def f(): return 1")
        connection.run(payload=b"[{}]", flags=MAP)
        connection.send(tasks_frame(*(Task(tag, payload=b"[{}]", flags=MAP) for tag in range(100))))
        frames = []
        while sum(frames) < 100:
            kind, body = connection.receive()
            self.assertEqual(kind, "O")
            frames.append(len(unpack_outcomes(body)))
        self.assertLess(len(frames), 20)

    def test_an_outcome_does_not_wait_for_the_first_map(self):
        fifo = self.fifo()
        connection = self.start_with(f"def f(wait=False):\n    if wait: open({fifo!r}).read()")
        connection.run()
        connection.run()
        connection.send(tasks_frame(Task(1), Task(2, payload=map_payload({"args": [True]}), flags=MAP)))
        self.assertEqual(connection.outcome().tag, 1)
        open(fifo, "w").close()
        self.assertEqual(connection.outcome().tag, 2)

    def test_serialized_functions(self):
        connection = self.start()
        source = 'import os\ndef f(n):\n    if n: return n, os.environ["GC_TASK_UUID"]\n    raise ValueError("oh")\n'
        connection.send(function_frame(1, GLOBUS_COMPUTE, framed("st\nf:" + source)))
        call = lambda n: framed(f"11\n[{n}]", "11\n{}").decode()
        task_id = uuid.uuid4()
        elements = [call(1), call(0), "no frames", {"args": []}, call(2)]
        values, failures = self.map(connection, *elements, task_id=task_id, result_serializers=[JSON_DATA])
        expected = [f'11\n[{n}, "{task_id}"]' for n in (1, 2)]
        self.assertEqual(values, [expected[0], None, None, None, expected[1]])
        self.assertEqual(sorted(failures), [1, 2, 3])
        self.assertIn("ValueError: oh", failures[1]["traceback"])
        values, _ = self.map(connection, call(3), task_id=task_id)
        self.assertEqual(values[0][:3], "00\n")


class Environment(WorkerTest):
    def test_every_task_starts_in_the_work_dir(self):
        connection = self.start_with("""
            import os
            def f(path, by_fd):
                start = os.getcwd()
                if by_fd:
                    fd = os.open(path, os.O_RDONLY)
                    os.fchdir(fd)
                    os.close(fd)
                else:
                    os.chdir(path)
                return start
            """)
        for by_fd in (False, True, False):
            value = connection.run(payload=json_payload("/", by_fd)).value
            self.assertEqual(value, os.path.realpath(self.work_dir))

    def test_a_removed_work_dir_comes_back(self):
        connection = self.start_with("import os\ndef f(): d = os.getcwd(); os.chdir('/'); os.rmdir(d); return d")
        self.assertEqual(connection.run().value, connection.run().value)

    def test_options(self):
        connection = self.start_with("""
            import os
            def f():
                names = ("A", "HOME", "PARSL_NUM_NODES", "PARSL_RANKS_PER_NODE", "GC_TASK_SANDBOX_DIR")
                return [os.environ.get(name) for name in names], os.getcwd()
            """)
        plain = connection.run().value
        task_id = uuid.uuid4()
        sandbox = os.path.join(self.work_dir, str(task_id))
        value = connection.run(
            task_id=task_id,
            env={"A": "1", "HOME": "/nowhere"},
            resource_specification={"num_nodes": 2, "ranks_per_node": 4},
            sandbox=True,
        ).value
        self.assertEqual(value, [["1", "/nowhere", "2", "4", sandbox], os.path.realpath(sandbox)])
        self.assertEqual(connection.run().value, plain)
        self.assertEqual(connection.run(env=None, sandbox=None, resource_specification=None).value, plain)
        self.assertEqual(plain[0], [None, os.environ.get("HOME"), None, None, None])

    def test_malformed_options(self):
        connection = self.start_with("def f(): return 1")
        for options in ({"env": [1]}, {"resource_specification": 1}, {"env": 3}):
            with self.subTest(options=options):
                error = connection.run(**options).error
                self.assertEqual(error["code"], "CouldNotExecuteUserTaskError")
                self.assertIn("malformed task options", error["message"])
        self.assert_alive(connection)

    def test_task_id_of_kind_2(self):
        source = textwrap.dedent("""
            def f(change):
                import os, subprocess
                seen = os.environ["GC_TASK_UUID"], subprocess.check_output("printf $GC_TASK_UUID", shell=True).decode()
                if change == "set":
                    os.environ["GC_TASK_UUID"] = "changed"
                elif change == "clear":
                    saved = dict(os.environ)
                    os.environ.clear()
                    os.environ.update(saved)
                return seen
            """)
        connection = self.start()
        connection.send(function_frame(1, GLOBUS_COMPUTE, framed("st\nf:" + source)))
        for change in ("", "set", "", "clear", ""):
            task_id = uuid.uuid4()
            payload = framed(f'11\n["{change}"]', "11\n{}")
            outcome = connection.run(task_id=task_id, payload=payload, result_serializers=[JSON_DATA])
            self.assertEqual(outcome.text, f'11\n["{task_id}", "{task_id}"]')

    def test_standard_input_is_empty(self):
        # Above all, it is not the zygote's control socket.
        connection = ZygoteProcess(self).fork_with(1, "import sys\ndef f(): return sys.stdin.read()")
        self.assertEqual(connection.run().value, "")


class Output(WorkerTest):
    SOURCE = """
        import ctypes, os, subprocess, sys

        def f(stream, how, text):
            fd = {"stdout": 1, "stderr": 2}[stream]
            if how == "python":
                print(text, end="", file=getattr(sys, stream))
            elif how == "os":
                os.write(fd, text.encode())
            elif how == "C":
                libc = ctypes.CDLL(None)
                libc.dprintf(fd, b"%s", text.encode())
            elif how == "child":
                subprocess.run("printf %%s '%s' >&%d" % (text, fd), shell=True)
            elif how == "reopened":
                subprocess.run("printf %%s '%s' >/dev/%s" % (text, stream), shell=True)
    """

    def test_every_way_to_write_is_captured(self):
        connection = self.start_with(self.SOURCE)
        for stream in ("stdout", "stderr"):
            for how in ("python", "os", "C", "child", "reopened"):
                with self.subTest(stream=stream, how=how):
                    outcome = connection.run(payload=json_payload(stream, how, f"é {how}"))
                    self.assertIsNone(outcome.value)
                    self.assertEqual(getattr(outcome, stream).decode(), f"é {how}")
                    self.assertEqual(outcome.stdout + outcome.stderr, f"é {how}".encode())

    def test_output_belongs_to_its_task(self):
        connection = self.start_with("import os\ndef f(i): i % 2 and os.write(1 + i % 3 // 2, b'%d' % i); return i")
        connection.send(tasks_frame(*(Task(i, payload=json_payload(i)) for i in range(200))))
        for i in range(200):
            outcome = connection.outcome()
            self.assertEqual((outcome.tag, outcome.value), (i, i))
            self.assertEqual(outcome.stdout + outcome.stderr, b"%d" % i if i % 2 else b"")
            self.assertEqual(bool(outcome.stderr), bool(i % 2 and i % 3 // 2))

    def test_output_of_a_task_that_raises(self):
        connection = self.start_with("def f(): print('before'); raise ValueError('after')")
        outcome = connection.run()
        self.assertEqual(outcome.stdout, b"before\n")
        self.assertIn("ValueError: after", outcome.error["traceback"])

    def test_a_hundred_megabytes_are_bounded(self):
        connection = self.start_with("def f():\n  for i in range(100): print(str(i % 10) * 999_999)\n  print('end')")
        outcome = connection.run()
        first, rest = outcome.stdout.split(b"\n", 1)
        self.assertEqual(first.decode(), f"[… {100_000_004 - self.max_output_bytes} bytes dropped]")
        self.assertEqual(len(rest), self.max_output_bytes)
        self.assertTrue(rest.endswith(b"99\nend\n"))
        self.assertEqual(outcome.stderr, b"")
        self.assert_alive(connection)

    def test_closed_streams_come_back(self):
        connection = self.start_with("import sys\ndef f(): print('text'); sys.stdout.close(); sys.stderr.close()")
        for _ in range(2):
            self.assertIsNone(connection.run().value)
        source = "import sys\ndef g(): print(1); print(2, file=sys.stderr)"
        connection.send(function_frame(2, PYTHON_SOURCE, source, "g"))
        outcome = connection.run(function=2)
        self.assertEqual((outcome.stdout, outcome.stderr), (b"1\n", b"2\n"))

    def test_text_that_is_not_unicode(self):
        connection = self.start_with("def f(): print('\\ud800')")
        self.assertEqual(connection.run().stdout, b"\\ud800\n")


class Processes(WorkerTest):
    def test_a_forked_child_that_returns(self):
        connection = self.start_with("import os\ndef f(): print('before'); return os.fork() or print('child')")
        pids = set()
        for tag in range(3):
            connection.send(tasks_frame(Task(tag)))
            outcome = connection.outcome()
            self.assertEqual(outcome.tag, tag)
            self.assertEqual(outcome.stdout.count(b"before"), 1)
            pids.add(outcome.value)
        self.assertEqual(len(pids), 3)
        self.assertNotIn(None, pids)

    def test_the_status_of_a_forked_child(self):
        connection = self.start_with("""
            import os
            def f(fails):
                pid = os.fork()
                if pid:
                    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
                if fails:
                    raise ValueError
            """)
        for fails in (False, True):
            self.assertEqual(connection.run(payload=json_payload(fails)).value, int(fails))

    def test_a_child_does_not_hold_the_connection(self):
        fifo = self.fifo()
        connection = self.start_with(f"""
            import os, signal
            def f():
                pid = os.fork()
                if pid == 0:
                    open({fifo!r}).read()
                    os._exit(0)
                return pid
            """)
        connection.run()
        connection.send(frame("X"))
        self.assertIsNone(connection.receive())
        open(fifo, "w").close()

    def test_a_child_that_outlives_its_task(self):
        connection = self.start_with("import subprocess\ndef f(): return subprocess.Popen(['sleep', '1000']).pid")
        child = connection.run().value
        self.assert_alive(connection)
        os.kill(child, 0)  # It lives, and is of the worker's group.
        self.assertEqual(os.getpgid(child), connection.hello["pid"])
        os.killpg(connection.hello["pid"], signal.SIGKILL)
        self.assertIsNone(connection.receive())

    def test_a_thread_that_outlives_its_task(self):
        connection = self.start_with(
            "import threading\ndef f(): threading.Thread(target=threading.Event().wait).start(); return 1"
        )
        self.assertEqual(connection.run().value, 1)
        self.assert_alive(connection)
        connection.send(frame("X"))
        self.assertIsNone(connection.receive())
        self.assertEqual(self.process.wait(TIMEOUT_S), 0)

    def test_pools_of_processes(self):
        connection = self.start_with("""
            import multiprocessing, subprocess
            def f():
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    return pool.map(len, ["a", "bb"]), subprocess.call("exit 3", shell=True)
            """)
        self.assertEqual(connection.run().value, [[1, 2], 3])
        self.assert_alive(connection)


def vectors():
    with open(VECTORS, encoding="utf-8") as file:
        return json.load(file)


CONCRETES = "globus_compute_sdk.serialize.concretes."
JSON_DATA = CONCRETES + "JSONData"
NO_ARGUMENTS = framed("11\n[]", "11\n{}")


class GlobusCompute(WorkerTest):
    REPR = "st\nf:def f(*args, **kwargs):\n    return repr((args, kwargs))\n"

    def globus(self, code):
        connection = self.start()
        connection.send(function_frame(1, GLOBUS_COMPUTE, framed(code)))
        return connection

    def test_data_vectors(self):
        connection = self.globus(self.REPR)
        for vector in vectors()["vectors"]:
            if vector["for"] != "data":
                continue
            value = eval(vector["python_repr"])
            for kwargs in ("11\n{}", "00\ngAR9lC4=\n"):
                with self.subTest(strategy=vector["strategy"], value=vector["python_repr"], kwargs=kwargs):
                    payload = framed(vector["serialized"], kwargs)
                    outcome = connection.run(payload=payload, result_serializers=[JSON_DATA])
                    self.assertEqual(json.loads(outcome.text[3:]), repr((tuple(value), {})))

    def test_code_vectors(self):
        for vector in vectors()["vectors"]:
            if vector["for"] != "code":
                continue
            with self.subTest(strategy=vector["strategy"]):
                if vector["identifier"] == "01\n":
                    if not HAS_DILL:
                        self.skipTest("dill is not installed")
                    if vectors()["python"] != "{}.{}".format(*sys.version_info):
                        self.skipTest("the vector's bytecode is of another Python")
                connection = self.start()
                connection.send(function_frame(1, GLOBUS_COMPUTE, vector["framed"]))
                payload = framed("11\n[2]", "11\n{}")
                outcome = connection.run(payload=payload, result_serializers=[JSON_DATA])
                self.assertEqual(json.loads(outcome.text[3:]), "héhé")

    def test_pickled_code(self):
        # `02` of the function os.path.join, by reference.
        connection = self.globus("02\ngASVFAAAAAAAAACMCXBvc2l4cGF0aJSMBGpvaW6Uk5Qu\n")
        outcome = connection.run(payload=framed('11\n["a", "b"]', "11\n{}"), result_serializers=[JSON_DATA])
        self.assertEqual(outcome.text, '11\n"a/b"')

    def test_malformed_framing(self):
        connection = self.globus(self.REPR)
        good = "5\n11\n{}"
        for text in [*vectors()["framing_must_be_rejected"], "", good, good * 3, good + "6\n11\n{}", "1_\n" + good]:
            with self.subTest(text=text):
                error = connection.run(payload=text.encode()).error
                self.assertEqual(error["code"], "CouldNotExecuteUserTaskError")
                self.assertIn("malformed buffer", error["message"])
        for text in vectors()["framing_must_be_rejected"]:
            connection.send(function_frame(2, GLOBUS_COMPUTE, text))
            self.assertIn("malformed buffer", connection.run(function=2, payload=NO_ARGUMENTS).error["message"])
        self.assert_alive(connection)

    def test_unknown_strategies(self):
        connection = self.globus(self.REPR)
        for buffer in ("99\nx", "", "1", "13\n" + framed("99\nx").decode(), "00\n!", "11\n{"):
            with self.subTest(buffer=buffer):
                error = connection.run(payload=framed(buffer, "11\n{}")).error
                self.assertEqual(error["code"], "RemoteExecutionError")

    def test_lengths_are_code_points(self):
        connection = self.globus(self.REPR)
        payload = '8\n11\n["é"]5\n11\n{}'.encode()
        outcome = connection.run(payload=payload, result_serializers=[JSON_DATA])
        self.assertEqual(json.loads(outcome.text[3:]), "(('é',), {})")

    def test_alternatives_are_tried_in_order(self):
        broken, good = "st\nf:def f(:", "sd\nf:def f(): return 1"
        connection = self.globus("12\n" + framed(broken, good).decode())
        self.assertEqual(connection.run(payload=NO_ARGUMENTS, result_serializers=[JSON_DATA]).text, "11\n1")
        connection = self.globus("12\n" + framed(broken, broken).decode())
        text = connection.run(payload=NO_ARGUMENTS).error["traceback"]
        self.assertIn("DeserializationError: no strategy could deserialize the buffer", text)
        self.assertEqual(text.count("st: SyntaxError"), 2)

    def test_plain_results_are_what_dill_writes(self):
        connection = self.globus("st\nf:def f(text): return eval(text)")
        for text in ("None", "True", "'é'", "b'x'", "1.5", "()", "(1, 2)", "[1, None, True, {'k': 'v'}]", "'x'*200"):
            with self.subTest(text=text):
                payload = framed("11\n" + json.dumps([text]), "11\n{}")
                buffer = connection.run(payload=payload).text
                self.assertTrue(buffer.startswith("00\n") and buffer.endswith("\n"))
                for vector in vectors()["vectors"]:
                    if vector.get("python_repr") == text and vector["identifier"] == "00\n":
                        self.assertEqual(buffer, vector["serialized"])

    def test_result_serializers(self):
        connection = self.globus("st\nf:def f(text): return eval(text)")
        both = [CONCRETES + "JSONData", "globus_compute_sdk.serialize.DillDataBase64"]
        cases = [
            ("1", both, "11\n1"),
            ("1", both[::-1], "00\ngARLAS4=\n"),
            ("b'x'", both, "00\ngASVBQAAAAAAAABDAXiULg==\n"),
            ("1", [CONCRETES + "AllDataStrategies"], "13\n4\n11\n112\n00\ngARLAS4=\n"),
            ("b'x'", [CONCRETES + "AllDataStrategies"], "13\n28\n00\ngASVBQAAAAAAAABDAXiULg==\n"),
        ]
        for text, serializers, buffer in cases:
            with self.subTest(text=text, serializers=serializers):
                payload = framed("11\n" + json.dumps([text]), "11\n{}")
                self.assertEqual(connection.run(payload=payload, result_serializers=serializers).text, buffer)
        for text, serializers in (("b'x'", both[:1]), ("len", both), ("1", [CONCRETES + "DillCode"])):
            payload = framed("11\n" + json.dumps([text]), "11\n{}")
            error = connection.run(payload=payload, result_serializers=serializers).error
            self.assertEqual(error["code"], "RemoteExecutionError")
            self.assertIn("SerializationError: All strategies failed.", error["traceback"])

    def test_a_result_that_cannot_be_serialized(self):
        connection = self.globus("st\nf:def f():\n    return (i for i in ())\n")
        error = connection.run(payload=NO_ARGUMENTS).error
        self.assertEqual(error["code"], "RemoteExecutionError")
        self.assertIn("SerializationError: Data serialization strategy DillDataBase64 failed", error["traceback"])
        self.assertIn("generator", error["traceback"])
        self.assertNotIn("worker.py", error["traceback"])

    def test_result_limit(self):
        self.max_result_bytes = 100
        connection = self.globus("st\nf:def f(n): return 'x' * n")
        self.assertEqual(connection.run(payload=framed("11\n[2]", "11\n{}")).text[:3], "00\n")
        error = connection.run(payload=framed("11\n[1000]", "11\n{}")).error
        self.assertEqual(error["code"], "MaxResultSizeExceeded")
        self.assertRegex(error["message"], r"^remote error: Task result of 1\d\d\dB exceeded current limit of 100B$")
        self.assertTrue(error["traceback"].startswith("MaxResultSizeExceeded("))

    def test_the_traceback_is_the_user_s(self):
        connection = self.globus("st\nf:def f(x):\n    return 1 / x\n")
        text = connection.run(payload=framed("11\n[0]", "11\n{}")).error["traceback"]
        self.assertTrue(text.startswith("Traceback (most recent call last):\n"))
        self.assertIn("in f\n    return 1 / x\n", text)
        self.assertTrue(text.endswith("ZeroDivisionError: division by zero\n"))
        self.assertNotIn("worker.py", text)

    @unittest.skipIf(HAS_DILL, "dill is installed")
    def test_without_dill(self):
        code = next(vector for vector in vectors()["vectors"] if vector["strategy"] == "DillCode")
        connection = self.start()
        connection.send(function_frame(1, GLOBUS_COMPUTE, code["framed"]))
        error = connection.run(payload=NO_ARGUMENTS).error
        self.assertEqual(error["code"], "CouldNotExecuteUserTaskError")
        self.assertIn("has no dill: pip install dill", error["message"])
        self.assertIn(sys.executable, error["message"])
        self.assert_alive(connection)

    @unittest.skipIf(HAS_SDK, "globus-compute-sdk is installed")
    def test_without_the_sdk(self):
        # A ShellFunction is pickled by reference to the SDK.
        shell_function = "01\ngASVLgAAAAAAAACMJWdsb2J1c19jb21wdXRlX3Nkay5zZGsuc2hlbGxfZnVuY3Rpb26UjAFGlJOU\nLg==\n"
        connection = self.globus(shell_function)
        error = connection.run(payload=NO_ARGUMENTS).error
        self.assertIn("has no globus_compute_sdk: pip install globus-compute-sdk", error["message"])


if HAS_DILL:
    import dill

if HAS_SDK:
    from globus_compute_sdk import ShellFunction
    from globus_compute_sdk.serialize import ComputeSerializer, concretes


def sample(a, b=1):
    """Travels to the worker by every strategy. Its module is said to be `__main__`, as in a user's script."""
    return {"é" * a: [b, (a, None)]}


sample.__module__ = "__main__"


class WithDill(WorkerTest):
    @needs_dill
    def test_functions_share_the_globals_of_main_and_not_the_worker_s(self):
        # What dill writes for a function of a script, whose globals are those of `__main__`.
        script = textwrap.dedent("""
            import base64, dill
            counter = 10
            def count():
                global counter
                counter = globals().get("counter", 0) + 1
                return counter, "Worker" in globals()
            print("01\\n" + base64.encodebytes(dill.dumps(count)).decode(), end="")
            """)
        path = os.path.join(self.directory, "script.py")
        with open(path, "w") as file:
            file.write(script)
        code = subprocess.check_output([sys.executable, path]).decode()
        connection = self.start()
        connection.send(function_frame(1, GLOBUS_COMPUTE, framed(code)))
        values = []
        for _ in range(2):
            outcome = connection.run(payload=NO_ARGUMENTS, result_serializers=[JSON_DATA])
            values.append(json.loads(outcome.text[3:]))
        self.assertEqual(values, [[1, False], [2, False]])

    @needs_dill
    def test_a_callable_result(self):
        connection = self.start()
        connection.send(function_frame(1, GLOBUS_COMPUTE, framed("st\nf:def f(): return lambda x: x + 1")))
        text = connection.run(payload=NO_ARGUMENTS).text
        self.assertTrue(text.startswith("01\n"))
        self.assertEqual(dill.loads(base64.b64decode(text[3:]))(1), 2)


class WithSdk(WorkerTest):
    CODE = [
        "DillCode",
        "DillCodeSource",
        "DillCodeTextInspect",
        "PureSourceTextInspect",
        "PureSourceDill",
        "CombinedCode",
        "AllCodeStrategies",
    ]
    DATA = ["DillDataBase64", "JSONData", "AllDataStrategies"]

    @needs_sdk
    def test_every_code_strategy_with_every_data_strategy(self):
        for code in self.CODE:
            connection = self.start()
            for data in self.DATA:
                with self.subTest(code=code, data=data):
                    serializer = ComputeSerializer(
                        strategy_code=getattr(concretes, code), strategy_data=getattr(concretes, data)
                    )
                    body = serializer.pack_buffers([serializer.serialize(sample)])
                    payload = serializer.pack_buffers([serializer.serialize((2,)), serializer.serialize({"b": 5})])
                    connection.send(function_frame(1, GLOBUS_COMPUTE, body))
                    outcome = connection.run(payload=payload.encode(), result_serializers=[CONCRETES + data])
                    expected = serializer.deserialize(serializer.serialize({"éé": [5, (2, None)]}))
                    self.assertEqual(serializer.deserialize(outcome.text), expected)
                    self.assertEqual(outcome.text[:3], getattr(concretes, data).identifier)
                    default = connection.run(payload=payload.encode())
                    self.assertEqual(ComputeSerializer().deserialize(default.text), {"éé": [5, (2, None)]})

    @needs_sdk
    def test_default_results_are_those_of_the_sdk(self):
        connection = self.start()
        connection.send(function_frame(1, GLOBUS_COMPUTE, framed("st\nf:def f(text): return eval(text)")))
        texts = ["1", "[1, (2, {'a': b'x'})]", "{1, 2}", "__import__('decimal').Decimal(1)", "'x' * 58", "len", "1j"]
        texts += ["[[[[[[[[1]]]]]]]]", "range(3)", "bytearray(3)", "float('nan')", "(lambda a: [a, a])([1])"]
        for text in texts:
            with self.subTest(text=text):
                payload = framed("11\n" + json.dumps([text]), "11\n{}")
                serializer = ComputeSerializer()
                self.assertEqual(connection.run(payload=payload).text, serializer.serialize(eval(text)))

    @needs_sdk
    def test_result_serializers_of_the_sdk(self):
        connection = self.start()
        code = "st\nf:def f(): import textwrap; return textwrap.dedent"
        connection.send(function_frame(1, GLOBUS_COMPUTE, framed(code)))
        outcome = connection.run(payload=NO_ARGUMENTS, result_serializers=[CONCRETES + "PureSourceTextInspect"])
        self.assertEqual(ComputeSerializer().deserialize(outcome.text).__name__, "dedent")

    @needs_sdk
    def test_shell_functions(self):
        serializer = ComputeSerializer()
        connection = self.start()
        body = serializer.pack_buffers([serializer.serialize(ShellFunction("pwd; echo hi {who}; exit 4"))])
        connection.send(function_frame(1, GLOBUS_COMPUTE, body))
        payload = serializer.pack_buffers([serializer.serialize(()), serializer.serialize({"who": "bob"})]).encode()
        task_id = uuid.uuid4()
        result = serializer.deserialize(connection.run(payload=payload, sandbox=True, task_id=task_id).text)
        sandbox = os.path.join(os.path.realpath(self.work_dir), str(task_id))
        self.assertEqual((result.returncode, result.stdout, result.stderr), (4, f"{sandbox}\nhi bob\n", ""))
        self.assertTrue(any(name.startswith(f"{task_id}.") for name in os.listdir(sandbox)))
        # It changes its directory; the next task has to start where it should.
        result = serializer.deserialize(connection.run(payload=payload).text)
        self.assertEqual(result.stdout.splitlines()[0], os.path.realpath(self.work_dir))


class ZygoteProcess:
    """The manager's view of a zygote."""

    def __init__(self, test, preload=(), **popen):
        self.test = test
        self.control, theirs = socket.socketpair()
        self.control.settimeout(TIMEOUT_S)
        self.lines = self.control.makefile("r")
        with theirs:
            self.process = subprocess.Popen([sys.executable, WORKER, "zygote"], stdin=theirs, **popen)
        test.addCleanup(self.process.wait, TIMEOUT_S)
        test.addCleanup(self.close)
        self.output_dir = os.path.join(test.directory, "output")
        os.makedirs(self.output_dir, exist_ok=True)
        self.send(
            socket=test.socket_path, preload=list(preload), work_dir=test.work_dir, output_dir=self.output_dir
        )
        self.ready = self.receive()["ready"]

    def close(self):
        self.lines.close()
        self.control.close()

    def send(self, **message):
        self.control.sendall(json.dumps(message).encode() + b"\n")

    def receive(self):
        return json.loads(self.lines.readline())

    def news(self):
        """The next news, without their time."""
        news = self.receive()
        self.test.assertGreater(news.pop("at"), 0)
        return news

    def start(self, number, template, payload=b"", task_id=None, **options):
        """The process id of a command that has been started."""
        contents = [template.encode(), json.dumps(options).encode() if options else b"", payload]
        line = {"command": number, "task": str(task_id or uuid.uuid4()), "sizes": [len(part) for part in contents]}
        self.control.sendall(b"".join([json.dumps(line).encode(), b"\n", *contents]))
        started = self.news()
        self.test.assertEqual(started, {"started": number, "pid": started["pid"]})
        return started["pid"]

    def end(self, number, pid):
        """How a command ended: its code, or minus its signal."""
        ended = self.news()
        self.test.assertEqual((ended["ended"], ended["pid"]), (number, pid))
        return ended["status"] if ended["signal"] is None else -ended["signal"]

    def run(self, template, number=1, **task):
        """How a command ended, and what it has left."""
        return Left(self, number, self.end(number, self.start(number, template, **task)))

    def fork(self, worker_id):
        self.send(fork=worker_id)
        forked = self.news()
        connection = self.test.accept()
        self.test.assertEqual(forked, {"forked": worker_id, "pid": connection.hello["pid"]})
        self.test.assertEqual(connection.hello["worker"], worker_id)
        return connection

    def fork_with(self, worker_id, source):
        connection = self.fork(worker_id)
        connection.send(function_frame(1, PYTHON_SOURCE, textwrap.dedent(source), "f"))
        return connection


class Left:
    """What a command has left in its files."""

    def __init__(self, zygote, number, code):
        self.code, self.files = code, {}
        for name in os.listdir(zygote.output_dir):
            if name.startswith(f"{number}."):
                with open(os.path.join(zygote.output_dir, name), encoding="utf-8") as file:
                    self.files[name.split(".")[1]] = file.read()

    @property
    def streams(self):
        assert "raised" not in self.files, self.files
        return self.files["stdout"], self.files["stderr"]

    @property
    def error(self):
        return json.loads(self.files["raised"])


class Shell(WorkerTest):
    def test_round_trip(self):
        payload = json_payload("hello", name="world", code=3)
        left = ZygoteProcess(self).run("echo {0} {name}; echo é >&2; exit {code}", payload=payload)
        self.assertEqual((left.code, left.streams), (3, ("hello world\n", "é\n")))
        self.assertEqual(left.files["cmd"], "echo hello world; echo é >&2; exit 3")
        self.assertNotIn("cmd", ZygoteProcess(self).run("true", 2).files)

    def test_signal(self):
        self.assertEqual(ZygoteProcess(self).run("kill -9 $$").code, -9)

    def test_template_errors_are_the_user_s(self):
        error = ZygoteProcess(self).run("echo {missing}").error
        self.assertEqual(error["code"], "RemoteExecutionError")
        self.assertIn("KeyError: 'missing'", error["traceback"])

    def test_what_cannot_be_run_is_raised(self):
        zygote = ZygoteProcess(self)
        cases = [
            ("echo {0", b"", {}, "ValueError"),
            ("echo {0.a}", json_payload("x"), {}, "AttributeError"),
            ("echo {0}", b"[", {}, "CouldNotExecuteUserTaskError"),
            ("echo {0}", b"[" * 1_000_000, {}, "CouldNotExecuteUserTaskError"),
            ("echo {0}", json_payload("x" * (256 << 10)), {}, "OSError: [Errno 7]"),
            ("echo {0}", json_payload("\0"), {}, "null byte"),
            ("echo", b"", {"env": [1]}, "CouldNotExecuteUserTaskError('malformed task options"),
            ("echo", b"", {"env": {"A": 1}}, "TypeError"),
        ]
        for number, (template, payload, options, error) in enumerate(cases):
            with self.subTest(template=template, error=error):
                left = zygote.run(template, number, payload=payload, **options)
                self.assertIn(error, left.error["traceback"])
        self.assertEqual(zygote.run("echo ok", 99).streams, ("ok\n", ""))

    @unittest.skipUnless(sys.platform == "linux", "elsewhere there may be no limit of memory")
    def test_a_hostile_template_hurts_nobody_else(self):
        # A stand-in for a machine with little memory.
        resource = importlib.import_module("resource")
        limit = (4 << 30, resource.getrlimit(resource.RLIMIT_AS)[1])
        zygote = ZygoteProcess(self, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit))
        self.assertIn("MemoryError", zygote.run("echo {0:>9999999999}", payload=json_payload("x")).error["traceback"])
        self.assertEqual(zygote.run("echo ok", 2).streams, ("ok\n", ""))

    def test_braces(self):
        self.assertEqual(ZygoteProcess(self).run("a=1; echo ${{a}}").streams[0], "1\n")

    def test_surroundings(self):
        task_id = uuid.uuid4()
        template = "cat; echo $FUNCX_TASK_ID $A $PARSL_CORES; pwd -P"
        left = ZygoteProcess(self).run(template, task_id=task_id, env={"A": "x"}, resource_specification={"cores": 2})
        self.assertEqual(left.streams, (f"{task_id} x 2\n{os.path.realpath(self.work_dir)}\n", ""))

    def test_sandbox(self):
        task_id = uuid.uuid4()
        left = ZygoteProcess(self).run("pwd -P; echo $GC_TASK_SANDBOX_DIR", task_id=task_id, sandbox=True)
        sandbox = os.path.join(self.work_dir, str(task_id))
        self.assertEqual(left.streams[0], f"{os.path.realpath(sandbox)}\n{sandbox}\n")

    @unittest.skipUnless(os.access("/bin/bash", os.X_OK), "another shell may do more by itself")
    def test_what_needs_no_shell_has_none(self):
        zygote = ZygoteProcess(self)
        # A shell tells the programs that it starts what they are called.
        told = "_=" + shutil.which("env")
        cases = [("env", False), ("A=1 env", True), ("env;", True), (" env  A=1 ", False)]
        for number, (command, by_shell) in enumerate(cases):
            with self.subTest(command=command):
                left = zygote.run(command, number)
                lines = left.streams[0].splitlines()
                self.assertEqual((left.code, told in lines), (0, by_shell))
                self.assertIn("PWD=" + self.work_dir, lines)

    @unittest.skipUnless(os.access("/bin/bash", os.X_OK), "another shell puts it in other words")
    def test_the_shell_says_what_is_wrong_with_a_program(self):
        script = os.path.join(self.directory, "script")
        with open(script, "w") as file:
            file.write("echo $0 $1\n")
        zygote = ZygoteProcess(self)
        denied = zygote.run(script, 1)
        self.assertEqual((denied.code, denied.streams[0]), (126, ""))
        self.assertIn("Permission denied", denied.streams[1])
        os.chmod(script, 0o700)
        self.assertEqual(zygote.run(f"{script} a", 2).streams, (f"{script} a\n", ""))
        missing = zygote.run("no-such-program -x", 3)
        self.assertEqual(missing.code, 127)
        self.assertIn("no-such-program: command not found", missing.streams[1])

    @unittest.skipUnless(os.access("/bin/bash", os.X_OK), "other shells read none of these")
    def test_what_a_shell_would_do_first_is_done(self):
        start = os.path.join(self.directory, ".bashrc")
        with open(start, "w") as file:
            file.write("env() { echo mine; }\n")
        ssh = {"SSH_CLIENT": "127.0.0.1 1 22", "HOME": self.directory}
        cases = [
            {"BASH_FUNC_env%%": "() { echo mine; }"},
            {"BASH_ENV": start},
            {"SHLVL": "0", **ssh},
            {"SHLVL": "1", **ssh},
            {"SHLVL": "0", "HOME": self.directory},
        ]
        for number, variables in enumerate(cases):
            with self.subTest(variables=variables):
                environment = {**os.environ, **variables}
                ours = ZygoteProcess(self, env=environment).run("env", number).streams[0]
                shell = ["/bin/bash", "-c", "env"]
                shells = subprocess.run(shell, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
                self.assertEqual(ours == "mine\n", shells.stdout == b"mine\n")

    @unittest.skipUnless(os.access("/bin/bash", os.X_OK), "there is no bash")
    def test_what_bash_does_itself_is_known(self):
        command = ["/bin/bash", "--norc", "-c", "compgen -bk"]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout
        spec = importlib.util.spec_from_file_location("worker", WORKER)
        worker = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(worker)
        self.assertEqual(set(said.decode().split()) - worker.SHELL_NAMES, set())

    def test_the_command_leads_a_session_and_its_group(self):
        zygote = ZygoteProcess(self)
        pid = zygote.start(1, "cut -d' ' -f5,6 /proc/$$/stat || ps -o pgid=,sess= -p $$")
        self.assertEqual(zygote.end(1, pid), 0)
        self.assertEqual(Left(zygote, 1, 0).streams[0].split(), [str(pid), str(pid)])

    def test_a_broken_pipe_ends_a_command_as_usual(self):
        self.assertEqual(ZygoteProcess(self).run("yes | head -n 1; exit ${{PIPESTATUS[0]}}").code, 128 + 13)

    def test_signals_have_their_usual_effect(self):
        zygote = ZygoteProcess(self)
        for number, name in enumerate(["TERM", "INT", "CHLD", "XFSZ"]):
            expected = 0 if name == "CHLD" else -getattr(signal, f"SIG{name}")
            self.assertEqual(zygote.run(f"kill -{name} $$", number).code, expected)

    def test_writers_do_not_overwrite_each_other(self):
        left = ZygoteProcess(self).run("echo one; echo two >/dev/stderr; (echo three); echo four >&2")
        self.assertEqual(left.streams, ("one\nthree\n", "two\nfour\n"))

    def test_a_termination_is_not_lost_however_early_it_comes(self):
        zygote = ZygoteProcess(self)
        for number in range(20):
            pid = zygote.start(number, "sleep 1000")
            # As the manager does: the group may not be there yet.
            try:
                os.killpg(pid, signal.SIGTERM)
            except ProcessLookupError:
                os.kill(pid, signal.SIGTERM)
            self.assertEqual(zygote.end(number, pid), -15)

    def test_a_large_command_order_among_others(self):
        zygote = ZygoteProcess(self)
        payload = json_payload("x" * (8 << 20), short="y")
        self.assertEqual(zygote.run("echo {short}", payload=payload).streams[0], "y\n")
        self.assert_alive(zygote.fork(7))


class Zygote(WorkerTest):
    def test_nothing_of_a_command_outlives_it(self):
        fifo = self.fifo()
        zygote = ZygoteProcess(self)
        os.mkfifo(f"{fifo}.go")
        pid = zygote.start(1, f"sleep 1000 >{fifo} & read line <{fifo}.go")
        with open(fifo) as reader:
            with open(f"{fifo}.go", "w") as go:
                go.write("on\n")
            self.assertEqual(zygote.end(1, pid), 0)
            self.assertEqual(reader.read(), "")

    def test_end_of_the_manager_is_the_end_of_the_commands(self):
        fifo = self.fifo()
        zygote = ZygoteProcess(self)
        zygote.start(1, f"sleep 1000 >{fifo}; true")
        with open(fifo) as reader:
            zygote.close()
            self.assertEqual(reader.read(), "")
        self.assertEqual(zygote.process.wait(TIMEOUT_S), 0)

    def test_fork(self):
        zygote = ZygoteProcess(self)
        self.assertEqual(zygote.ready["pid"], zygote.process.pid)
        first, second = zygote.fork(3), zygote.fork(4)
        for connection in (first, second):
            self.assertEqual(connection.hello["details"], zygote.ready["details"])
            self.assertEqual(os.getpgid(connection.hello["pid"]), connection.hello["pid"])
            self.assert_alive(connection)
        first.send(frame("X"))
        exited = {"exited": 3, "pid": first.hello["pid"], "status": 0, "signal": None}
        self.assertEqual(zygote.news(), exited)
        self.assert_alive(second)

    def test_exit_status_and_signal_of_a_task(self):
        zygote = ZygoteProcess(self)
        cases = [
            ("import os; os._exit(7)", 7, None),
            ("import os, signal; os.killpg(0, signal.SIGKILL)", None, 9),
            ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", None, 15),
        ]
        for worker_id, (body, status, number) in enumerate(cases):
            with self.subTest(body=body):
                connection = zygote.fork_with(worker_id, f"def f(): {body}")
                connection.send(tasks_frame(Task(1)))
                self.assertIsNone(connection.receive())
                exited = zygote.news()
                pid = connection.hello["pid"]
                self.assertEqual(exited, {"exited": worker_id, "pid": pid, "status": status, "signal": number})

    def test_earlier_outcomes_survive_a_crash(self):
        connection = ZygoteProcess(self).fork_with(1, "import os\ndef f(dies=False): return os._exit(1) if dies else 1")
        connection.run()
        connection.send(tasks_frame(Task(1), Task(2, payload=json_payload(True), flags=ANNOUNCE)))
        self.assertEqual(connection.outcome().tag, 1)
        self.assertEqual(connection.receive()[0], "S")
        self.assertIsNone(connection.receive())

    def test_nothing_of_a_worker_outlives_it(self):
        self.assert_nothing_outlives_a_worker(ZygoteProcess(self))

    def test_nothing_of_a_worker_outlives_it_where_there_is_no_waitid(self):
        with open(os.path.join(self.directory, "forget_waitid.py"), "w") as module:
            module.write("import os\nif hasattr(os, 'waitid'): del os.waitid\n")
        environment = dict(os.environ, PYTHONPATH=self.directory)
        self.assert_nothing_outlives_a_worker(ZygoteProcess(self, preload=["forget_waitid"], env=environment))

    def assert_nothing_outlives_a_worker(self, zygote):
        fifo = self.fifo()
        source = f"import subprocess\ndef f(): subprocess.Popen('exec sleep 1000 >{fifo}', shell=True)"
        connection = zygote.fork_with(1, source)
        connection.run()
        with open(fifo) as reader:  # Opens when the child has, and ends when the child does.
            connection.send(frame("X"))
            self.assertEqual(zygote.receive()["status"], 0)
            self.assertEqual(reader.read(), "")

    def test_end_of_the_manager_is_the_end_of_the_workers(self):
        fifo = self.fifo()
        zygote = ZygoteProcess(self)
        # The worker is in the middle of a task, so it does not itself see that the manager has gone.
        source = f"import subprocess\ndef f(): subprocess.run('exec sleep 1000 >{fifo}', shell=True)"
        connection = zygote.fork_with(1, source)
        connection.send(tasks_frame(Task(1)))
        idle = zygote.fork(2)
        with open(fifo) as reader:
            zygote.close()
            self.assertEqual(reader.read(), "")
        self.assertIsNone(connection.receive())
        self.assertIsNone(idle.receive())
        self.assertEqual(zygote.process.wait(TIMEOUT_S), 0)

    @unittest.skipUnless(sys.platform == "linux", "only Linux tells a child of its parent's death")
    def test_a_zygote_that_never_gets_ready_ends_with_its_manager(self):
        fifo = self.fifo()
        with open(os.path.join(self.directory, "hangs.py"), "w") as file:
            file.write(f"import time\nopened = open({fifo!r}, 'w')\ntime.sleep(1000)\n")
        first = {"socket": "", "preload": ["hangs"], "work_dir": self.work_dir, "output_dir": self.directory}
        manager = f"""
            import json, socket, subprocess, sys, time
            ours, theirs = socket.socketpair()
            subprocess.Popen([sys.executable, {WORKER!r}, "zygote"], stdin=theirs)
            ours.sendall(json.dumps({first!r}).encode() + b"\\n")
            time.sleep(1000)
        """
        environment = {**os.environ, "PYTHONPATH": self.directory}
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(manager)], env=environment)
        with open(fifo) as reader:
            process.kill()
            process.wait(TIMEOUT_S)
            self.assertEqual(reader.read(), "")

    @unittest.skipUnless(sys.platform == "linux", "only Linux tells a child of its parent's death")
    def test_a_killed_zygote_takes_its_workers_along(self):
        zygote = ZygoteProcess(self)
        connection = zygote.fork_with(1, "import threading\ndef f(): threading.Event().wait()")
        connection.send(tasks_frame(Task(1, flags=ANNOUNCE)))
        self.assertEqual(connection.receive()[0], "S")
        zygote.process.kill()
        self.assertIsNone(connection.receive())

    def test_signals_meant_for_a_whole_job(self):
        zygote = ZygoteProcess(self)
        zygote.process.send_signal(signal.SIGTERM)
        zygote.process.send_signal(signal.SIGINT)
        self.assert_alive(zygote.fork(1))

    def test_preload(self):
        zygote = ZygoteProcess(self, ["sqlite3", "no_such_module"], stderr=subprocess.PIPE)
        connection = zygote.fork_with(1, "import sys\ndef f(): return 'sqlite3' in sys.modules")
        self.assertTrue(connection.run().value)
        zygote.close()
        with zygote.process.stderr as stderr:
            self.assertIn(b"cannot preload no_such_module: ModuleNotFoundError", stderr.read())

    def test_workers_draw_different_random_numbers(self):
        preload = ["random", "numpy.random"] if importlib.util.find_spec("numpy") else ["random"]
        zygote = ZygoteProcess(self, preload)
        source = f"def f():\n    import {', '.join(preload)}\n    return [{'.random(), '.join(preload)}.random()]"
        draws = [zygote.fork_with(worker_id, source).run().value for worker_id in (1, 2)]
        for first, second in zip(*draws):
            self.assertNotEqual(first, second)

    def test_unexpected_commands(self):
        zygote = ZygoteProcess(self, stderr=subprocess.PIPE)
        connection = zygote.fork(1)
        zygote.send(spoon=1)
        self.assertIn(b'protocol error: the zygote does not expect {"spoon": 1}', zygote.process.communicate()[1])
        self.assertEqual(zygote.process.returncode, 2)
        self.assertIsNone(connection.receive())


if __name__ == "__main__":
    unittest.main(verbosity=2)  # Which says why a test was skipped.
