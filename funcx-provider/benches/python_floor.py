"""What the Python worker costs over the least that a Python process could do.

    python python_floor.py [--runs 5] [--calls 100000] [--python PATH]

Prints calls/s of one bare Python loop, of one worker, and their ratio (the median over the runs of the ratio within a
run). Both sides answer the same calls over a Unix socket, one after the other in turn, fed by this process, which does
nothing but move bytes that were made beforehand. The bare loop knows its function, unpickles (args, kwargs), calls, and
pickles the value; the protocol around it is a length:

    one by one   two reads and one write for each call, as a simple worker does it
    buffered     many calls per read and as many replies per write, as fast as such a loop can be made

The worker does more for its money: heads with times, captured output, size limits, errors. Kind 2 also decodes and
encodes base64, which the bare loop does not.
"""

import argparse
import json
import os
import pickle
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import uuid

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "worker", "worker.py")
U32 = struct.Struct("<I")
FRAME_HEAD = struct.Struct("<IB")
TASK_HEAD = struct.Struct("<Q16sIIII")
TASKS_PER_FRAME = 64

SOURCE = "def noop(*args):\n    return None\n"

BARE_ONE_BY_ONE = """
import os, pickle, socket, struct, sys
U32 = struct.Struct("<I")
connection = socket.socket(socket.AF_UNIX); connection.connect(sys.argv[1])
fd = connection.fileno()
loads, dumps = pickle.loads, pickle.dumps
def read_exactly(size):
    data = os.read(fd, size)
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            sys.exit()
        data += more
    return data
%s
while True:
    args, kwargs = loads(read_exactly(U32.unpack(read_exactly(4))[0]))
    result = dumps(noop(*args, **kwargs), 5)
    os.write(fd, U32.pack(len(result)) + result)
"""

BARE_BUFFERED = """
import pickle, socket, struct, sys
U32 = struct.Struct("<I")
connection = socket.socket(socket.AF_UNIX); connection.connect(sys.argv[1])
loads, dumps = pickle.loads, pickle.dumps
%s
rest = b""
while True:
    data = connection.recv(1 << 20)
    if not data:
        sys.exit()
    data = rest + data
    replies, position, size = [], 0, len(data)
    while size - position >= 4:
        end = position + 4 + U32.unpack_from(data, position)[0]
        if end > size:
            break
        args, kwargs = loads(data[position + 4:end])
        result = dumps(noop(*args, **kwargs), 5)
        replies.append(U32.pack(len(result)))
        replies.append(result)
        position = end
    rest = data[position:]
    connection.sendall(b"".join(replies))
"""


def frame(kind, body):
    return FRAME_HEAD.pack(1 + len(body), ord(kind)) + body


def buffers(*texts):
    return "".join(f"{len(text)}\n{text}" for text in texts).encode()


def tasks(payload, calls, per_frame):
    frames = []
    for first in range(0, calls, per_frame):
        tags = range(first, min(first + per_frame, calls))
        heads = [TASK_HEAD.pack(tag, uuid.uuid4().bytes, 1, 0, 0, len(payload)) for tag in tags]
        frames.append(frame("T", b"".join([U32.pack(len(tags)), *heads, payload * len(tags)])))
    return b"".join(frames)


def dill_data(value):
    return {(): "00\ngAQpLg==\n", (1, 2): "00\ngASVBwAAAAAAAABLAUsChpQu\n"}[value]


def function_frame(kind):
    body = SOURCE.encode() if kind == 1 else buffers("st\nnoop:" + SOURCE)
    return frame("F", struct.pack("<IBI", 1, kind, 4) + b"noop" + body)


def count_worker_replies(data):
    """(replies, bytes used) of what a worker has sent."""
    replies = position = 0
    while len(data) - position >= 9:
        end = position + 4 + U32.unpack_from(data, position)[0]
        if end > len(data):
            break
        if data[position + 4] == ord("O"):
            replies += U32.unpack_from(data, position + 5)[0]
        position = end
    return replies, position


def count_bare_replies(data):
    # Every reply is the pickle of None, so all are of one size.
    size = 4 + len(pickle.dumps(None, 5))
    return len(data) // size, len(data) // size * size


def pump(connection, blob, calls, count_replies):
    """Feed `blob` as fast as it is taken until `calls` replies have come; calls/s."""
    connection.setblocking(False)
    poller = select.poll()
    poller.register(connection, select.POLLIN | select.POLLOUT)
    waiting, received, replies = memoryview(blob), b"", 0
    begin = time.perf_counter()
    while replies < calls:
        for _, event in poller.poll():
            if event & select.POLLIN:
                received += connection.recv(1 << 20)
                new, used = count_replies(received)
                replies, received = replies + new, received[used:]
            elif event & (select.POLLERR | select.POLLHUP):
                raise EOFError("the process under test has gone")
            if event & select.POLLOUT and waiting:
                waiting = waiting[connection.send(waiting[: 256 << 10]) :]
                if not waiting:
                    poller.modify(connection, select.POLLIN)
    return calls / (time.perf_counter() - begin)


class Process:
    """One process under test, connected."""

    def __init__(self, command, **environment):
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
            path = os.path.join(directory, "s")
            listener.bind(path)
            listener.listen()
            command = [argument.replace("SOCKET", path) for argument in command]
            self.process = subprocess.Popen(command, env=dict(os.environ, FUNCX_WORKER_SOCKET=path, **environment))
            self.connection = listener.accept()[0]

    def __enter__(self):
        return self.connection

    def __exit__(self, *_):
        self.connection.close()
        self.process.wait()


def bare(python, program, payload, calls):
    blob = (U32.pack(len(payload)) + payload) * calls
    with Process([python, "-c", program % SOURCE, "SOCKET"]) as connection:
        pump(connection, blob[: len(blob) // calls * 1000], 1000, count_bare_replies)
        return pump(connection, blob, calls, count_bare_replies)


def worker(python, kind, payload, calls, per_frame):
    blob = tasks(payload, calls, per_frame)
    process = Process([python, WORKER, "worker"], FUNCX_WORKER_ID="1")
    with tempfile.TemporaryDirectory() as directory, process as connection:
        connection.recv(1 << 16)
        limits = {"max_result_bytes": 10 << 20, "max_output_bytes": 1 << 20, "work_dir": directory}
        connection.sendall(frame("W", json.dumps(dict(limits, endpoint_id=None)).encode()) + function_frame(kind))
        pump(connection, tasks(payload, 1000, 64), 1000, count_worker_replies)
        return pump(connection, blob, calls, count_worker_replies)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of both sides")
    options = parser.parse_args()

    cases = [
        ("kind 1, no arguments", 1, (), b""),
        ("kind 1, args [1, 2]", 1, (1, 2), b'{"args":[1,2]}'),
        ("kind 2, ()", 2, (), buffers(dill_data(()), "00\ngAR9lC4=\n")),
        ("kind 2, (1, 2)", 2, (1, 2), buffers(dill_data((1, 2)), "00\ngAR9lC4=\n")),
    ]
    print(f"{'':20}{'bare, calls/s':>26}{'worker, calls/s':>26}{'worker / bare, 64 tasks a frame (1)':>44}")
    print(f"{'':20}" + "".join(f"{name:>13}" for name in ("one by one", "buffered", "64 a frame", "1 a frame")), end="")
    print(f"{'one by one':>22}{'buffered':>22}")
    for name, kind, args, payload in cases:
        rows = []
        for _ in range(options.runs):
            pickled = pickle.dumps((args, {}), 5)
            rows.append(
                (
                    bare(options.python, BARE_ONE_BY_ONE, pickled, options.calls),
                    bare(options.python, BARE_BUFFERED, pickled, options.calls),
                    worker(options.python, kind, payload, options.calls, TASKS_PER_FRAME),
                    worker(options.python, kind, payload, options.calls, 1),
                )
            )
        rates = [statistics.median(column) for column in zip(*rows)]
        ratios = [
            tuple(statistics.median(row[ours] / row[floor] for row in rows) for ours in (2, 3)) for floor in (0, 1)
        ]
        print(
            f"{name:20}"
            + "".join(f"{rate:13,.0f}" for rate in rates)
            + "".join(f"{batched:15.2f} ({single:.2f})" for batched, single in ratios),
            flush=True,
        )


if __name__ == "__main__":
    main()
