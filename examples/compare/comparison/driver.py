"""Measures one system, in an environment in which it is installed: `python -m comparison.driver JSON`.

Prints a JSON line per figure. Whatever the system itself prints goes to standard error.
"""
import importlib
import json
import os
import sys
import threading
import time
import types

from . import statistics
from .machine import Meter, descendants, resident_bytes
from .systems import SYSTEMS
from .systems.base import Unsupported

#: Time after which two workers are in the middle of a hundred tasks of a tenth of a second.
KILL_AFTER = 1.55
STOP_SECONDS = 15


class Wrong(Exception):
    """A system answered, but not with what it should."""


class Driver:
    def __init__(self, order, emit):
        self.order, self.emit = order, emit
        #: The harness, which is the parent of all that belongs to the run, orphans too.
        self.root = os.getppid()
        spec = SYSTEMS[order["system"]]
        setup = types.SimpleNamespace(variant=spec.variant, directory=order["directory"], funcx=order["funcx"])
        #: Whether its tasks are commands, and not Python functions.
        self.runs_commands = "spawn" in spec.figures
        module = importlib.import_module(f"comparison.systems.{spec.module}")
        self.system = module.System(setup)

    def run(self):
        sizes = self.order["sizes"]
        with Meter(self.root) as meter:
            self.system.start()
            self.first_result()
        self.say("cold_start", time.monotonic() - self.order["launched"], meter, checked=1)
        self.emit({"versions": self.system.versions()})
        for figure in self.order["figures"]:
            if figure != "cold_start":
                self.measure(figure, sizes)

    def measure(self, figure, sizes):
        try:
            getattr(self, figure)(sizes)
        except Unsupported as why:
            self.emit({"unsupported": figure, "why": str(why)})

    def say(self, figure, value, meter, **more):
        record = {"figure": figure, "value": value, "seconds": round(meter.seconds, 3)}
        self.emit(record | {"foreign_percent": meter.foreign, "cpu_seconds": meter.cpu} | more)

    def first_result(self):
        if self.runs_commands:
            self.touch(1)
        else:
            expect([self.system.call("noop", 7)], [7])

    # ---- one figure each

    def round_trip(self, sizes):
        count = sizes["round_trip"]
        if hasattr(self.system, "round_trips"):
            with Meter(self.root) as meter:
                p50, p99 = self.system.round_trips(count)
        else:
            for index in range(min(100, count)):
                expect([self.system.call("noop", index)], [index])
            with Meter(self.root) as meter:
                times = [self.timed_call(index) for index in range(count)]
            p50, p99 = (1e3 * statistics.percentile(times, share) for share in (50, 99))
        self.say("round_trip", p50, meter, checked=count)
        self.say("round_trip_p99", p99, meter, checked=count)

    def timed_call(self, index):
        began = time.perf_counter()
        value = self.system.call("noop", index)
        took = time.perf_counter() - began
        expect([value], [index])
        return took

    def noop(self, sizes, figure="noop"):
        count = sizes[figure]
        arguments = list(range(count))
        expect(self.system.collect(self.system.submit("noop", arguments[:200])), arguments[:200])
        with Meter(self.root) as meter:
            values = self.system.collect(self.system.submit("noop", arguments))
        expect(values, arguments)
        self.say(figure, count / meter.seconds, meter, checked=count)

    def noop_large(self, sizes):
        self.noop(sizes, "noop_large")

    def echo_1mib(self, sizes):
        count = sizes["echo_1mib"]
        body = "0123456789abcdef" * ((1 << 16) - 1)
        arguments = [f"{index:016}{body}" for index in range(count)]
        expect(self.system.collect(self.system.submit("echo", arguments[:2])), arguments[:2])
        with Meter(self.root) as meter:
            values = self.system.collect(self.system.submit("echo", arguments))
        expect(values, arguments)
        self.say("echo_1mib", count / meter.seconds, meter, checked=count)

    def spawn(self, sizes):
        count = sizes["spawn"]
        self.touch(20)
        with Meter(self.root) as meter:
            self.touch(count)
        self.say("spawn", count / meter.seconds, meter, checked=count)

    def spawn_round_trip(self, sizes):
        count = sizes["spawn_round_trip"]
        self.touch(5)
        times = []
        with Meter(self.root) as meter:
            for _ in range(count):
                began = time.perf_counter()
                self.touch(1)
                times.append(time.perf_counter() - began)
        self.say("spawn_round_trip", 1e3 * statistics.percentile(times, 50), meter, checked=count)

    def touch(self, count):
        """Has commands make a file each, and sees that they are there."""
        directory = os.path.join(self.order["directory"], f"touched-{time.monotonic_ns()}")
        os.mkdir(directory)
        paths = [os.path.join(directory, str(index)) for index in range(count)]
        expect(self.system.collect_spawn(self.system.submit_spawn(paths)), [True] * count)
        if len(os.listdir(directory)) != count:
            raise Wrong(f"{len(os.listdir(directory))} files of {count} in {directory}")

    def memory(self, sizes):
        """Growth of all processes, the client too, while tasks wait behind two that keep the workers busy."""
        count = sizes["memory"]
        arguments = list(range(count))
        expect(self.system.collect(self.system.submit("noop", arguments[:200])), arguments[:200])
        gate = os.path.join(self.order["directory"], "gate")
        held = [self.system.submit("wait_for", [gate, gate])]
        time.sleep(1)
        before, client = self.resident()
        with Meter(self.root) as meter:
            held.append(self.system.submit("noop", arguments))
            after, client_after = self.settled()
        per_task = count * 1024
        share = (client_after - client) / per_task
        self.say("memory", (after - before) / per_task, meter, submitted=count, client_kib=share)
        with open(gate, "w", encoding="ascii"):
            pass

    def resident(self):
        """Resident memory of everything, and of the client, which is this process."""
        return resident_bytes(descendants(self.root)), resident_bytes([os.getpid()])

    def settled(self):
        """The same once it has stopped growing."""
        last, calm, end = (0, 0), 0, time.monotonic() + 30
        while calm < 3 and time.monotonic() < end:
            time.sleep(0.5)
            now = self.resident()
            calm = calm + 1 if abs(now[0] - last[0]) < 1 << 18 else 0
            last = now
        return last

    def recovery(self, sizes):
        count = sizes["recovery"]
        workers = self.workers()
        with Meter(self.root) as meter:
            submitted = self.system.submit("nap", [0.1] * count)
            time.sleep(KILL_AFTER)
            victim = workers[0]
            if victim not in descendants(self.root):
                raise Wrong(f"the worker that was to be killed, process {victim}, is none of ours")
            os.kill(victim, 9)
            values = self.system.collect(submitted)
        failed = sum(not isinstance(value, int) for value in values)
        if len(values) != count:
            raise Wrong(f"{len(values)} outcomes of {count} tasks")
        self.say("recovery", meter.seconds, meter, checked=count - failed, failed=failed)

    def workers(self):
        """The processes that run tasks."""
        for _ in range(30):
            seen = set(self.system.collect(self.system.submit("nap", [0.02] * 8)))
            if len(seen) == 2:
                return sorted(seen)
        raise Wrong(f"two workers are wanted, and tasks ran in processes {seen}")


def expect(values, wanted):
    if values == wanted:
        return
    for index, (value, want) in enumerate(zip(values, wanted)):
        if value != want:
            raise Wrong(f"task {index} of {len(wanted)}: {str(value)[:200]!r} instead of {str(want)[:40]!r}")
    raise Wrong(f"{len(values)} values instead of {len(wanted)}")


def stop(system):
    """Stops the system, but waits for it no longer than is proper: the harness ends what is left."""
    thread = threading.Thread(target=system.stop, daemon=True)
    thread.start()
    thread.join(STOP_SECONDS)


def main():
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(record):
        lines.write(json.dumps(record) + "\n")

    driver = Driver(json.loads(sys.argv[1]), emit)
    code = 0
    try:
        driver.run()
    except Unsupported as why:
        emit({"unsupported": "all", "why": str(why)})
    except Exception as error:
        import traceback

        traceback.print_exc()
        emit({"error": f"{type(error).__name__}: {error}"})
        code = 1
    stop(driver.system)
    lines.flush()
    # Some peers have threads that never end.
    os._exit(code)


if __name__ == "__main__":
    main()
