"""The least that a Python worker has to do: read a frame, decode the arguments, call, encode the value, answer.

Two such loops over sockets, without scheduling, durability, failures or anything else. Frames are made before the clock
runs in no system, so they are made inside it here too.
"""
import json
import os
import platform
import selectors
import socket
import struct

from .. import work
from .base import System as Base

LENGTH = struct.Struct("<I")
WORKERS = 2


class System(Base):
    def versions(self):
        return {"python": platform.python_version()}

    def start(self):
        self.sockets = []
        for _ in range(WORKERS):
            ours, theirs = socket.socketpair()
            if os.fork() == 0:
                for each in [ours, *self.sockets]:
                    each.close()
                serve(theirs)
                os._exit(0)
            theirs.close()
            self.sockets.append(ours)

    def submit(self, name, arguments):
        return [frame(json.dumps({"args": [argument]}).encode()) for argument in arguments]

    def collect(self, submitted):
        return pump(self.sockets, submitted)

    def stop(self):
        for each in self.sockets:
            each.close()


def frame(body):
    return LENGTH.pack(len(body)) + body


def split(buffer):
    """Whole frames, and what is left."""
    frames, at = [], 0
    while at + 4 <= len(buffer) and at + 4 + (length := LENGTH.unpack_from(buffer, at)[0]) <= len(buffer):
        frames.append(buffer[at + 4 : at + 4 + length])
        at += 4 + length
    return frames, buffer[at:]


def serve(connection):
    """A worker: answers what one read has brought with one write."""
    rest = b""
    while piece := connection.recv(1 << 18):
        bodies, rest = split(rest + piece)
        answers = (json.dumps(work.noop(*json.loads(body)["args"])).encode() for body in bodies)
        connection.sendall(b"".join(map(frame, answers)))


def pump(sockets, frames):
    """Sends each worker its share and reads the answers meanwhile."""
    shares = [memoryview(b"".join(frames[index::WORKERS])) for index in range(WORKERS)]
    answers, rests = [[] for _ in sockets], [b"" for _ in sockets]
    with selectors.DefaultSelector() as selector:
        for index, each in enumerate(sockets):
            each.setblocking(False)
            selector.register(each, selectors.EVENT_READ | selectors.EVENT_WRITE, index)
        while sum(map(len, answers)) < len(frames):
            for key, events in selector.select():
                index = key.data
                if events & selectors.EVENT_WRITE:
                    shares[index] = shares[index][_send(key.fileobj, shares[index]) :]
                    if not shares[index]:
                        selector.modify(key.fileobj, selectors.EVENT_READ, index)
                if events & selectors.EVENT_READ:
                    bodies, rests[index] = split(rests[index] + key.fileobj.recv(1 << 18))
                    answers[index] += bodies
    values = [None] * len(frames)
    for index in range(WORKERS):
        values[index::WORKERS] = map(json.loads, answers[index])
    return values


def _send(connection, data):
    try:
        return connection.send(data[: 1 << 18])
    except BlockingIOError:
        return 0
