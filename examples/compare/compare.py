#!/usr/bin/env python3
"""Measures funcx and its peers side by side on this machine. `README.md` says what each figure means."""
import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from comparison import install, machine, report, statistics  # noqa: E402
from comparison.systems import SYSTEMS  # noqa: E402

FULL = {
    "round_trip": 300, "noop": 10_000, "noop_large": 50_000, "echo_1mib": 100, "memory": 10_000, "recovery": 100,
    "spawn": 2_000, "spawn_round_trip": 100,
}
QUICK = FULL | {"round_trip": 100, "noop": 1_000, "noop_large": 5_000, "echo_1mib": 20, "memory": 5_000, "spawn": 500}
#: Figures that want a system in which nothing has happened before.
FRESH = {"memory"}
#: Figures that hardly vary and take long are measured in the first runs only.
RUNS = {"memory": 2, "recovery": 3}
#: Nor is a figure measured again that took longer than this.
PATIENCE_SECONDS = 25
#: After this a driver is ended.
DRIVER_SECONDS = 300


class Comparison:
    def __init__(self, options, output):
        self.options, self.output = options, output
        self.sizes = QUICK if options.quick else FULL
        self.records, self.failures, self.versions = [], [], {}
        self.slow, self.pythons, self.left_out = set(), {}, {}
        (output / "records.jsonl").unlink(missing_ok=True)
        self.began = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")

    def prepare(self):
        """Installs the peers; leaves out those that cannot be had."""
        funcx = self.options.funcx
        with open(self.output / "install.log", "a", encoding="utf-8") as log:
            for name in self.options.peers:
                spec = SYSTEMS[name]
                try:
                    if spec.role == "ours" and not funcx:
                        funcx = install.build(HERE.parent.parent, log, say)
                    self.pythons[name] = install.interpreter(spec, self.options.cache, log, say)
                except install.Unavailable as why:
                    self.left_out[name] = str(why)
                    say(f"left out: {name}: {why}")
        self.funcx = str(funcx or "")
        return bool(self.pythons)

    def measure(self):
        """A B C A B C: what the machine does meanwhile happens to all of them."""
        for run in range(self.options.runs):
            for name in self.pythons:
                self.measure_system(name, run)

    def measure_system(self, name, run):
        figures = [
            figure
            for figure in SYSTEMS[name].figures
            if (name, figure) not in self.slow and run < RUNS.get(figure, self.options.runs)
        ]
        warm = [figure for figure in figures if figure not in FRESH]
        for group in filter(None, (warm, [figure for figure in figures if figure in FRESH])):
            say(f"run {run + 1} of {self.options.runs}: {name}: {', '.join(group)}")
            self.drive(name, run, group)

    def drive(self, name, run, figures):
        """One driver, from its start until nothing is left of it."""
        with tempfile.TemporaryDirectory(prefix="compare-", ignore_cleanup_errors=True) as directory:
            order = {
                "system": name, "figures": figures, "sizes": self.sizes, "directory": directory, "funcx": self.funcx,
                "launched": time.monotonic(),
            }
            try:
                text, error = self.converse(name, order)
            finally:
                machine.end_descendants(os.getpid())
        found, strange = statistics.parse_lines(text)
        for line in strange:
            error = error or f"a line that is no record: {line[:200]}"
        for record in found:
            error = self.keep(record, name, run, figures) or error
        if error:
            self.failures.append({"system": name, "run": run + 1, "figures": figures, "error": error})
            say(f"failed: {name}: {error}")

    def converse(self, name, order):
        """What the driver prints, and why it did not come to its end."""
        python = self.pythons[name]
        path = os.pathsep.join([os.path.dirname(python), os.environ.get("PATH", os.defpath)])
        environment = os.environ | {"PYTHONPATH": str(HERE), "PATH": path, "TMPDIR": order["directory"]}
        # Records go to a file and not into a pipe, whose end does not come before the last process of a peer has ended.
        records = pathlib.Path(order["directory"]) / "records.jsonl"
        with open(self.output / f"{name}.log", "a", encoding="utf-8") as log, open(records, "wb") as out:
            driver = subprocess.Popen(
                [python, "-m", "comparison.driver", json.dumps(order)], env=environment, cwd=order["directory"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True,
            )
            try:
                code = driver.wait(DRIVER_SECONDS)
                error = None if code == 0 else f"the driver ended with code {code}"
            except subprocess.TimeoutExpired:
                driver.kill()
                error = f"no end after {DRIVER_SECONDS} s"
        return records.read_text(encoding="utf-8"), error

    def keep(self, record, name, run, figures):
        """Puts a line of a driver where it belongs. What comes back is an error that it tells of."""
        if "error" in record:
            return record["error"]
        if "unsupported" in record:
            what = name if record["unsupported"] == "all" else f"{name} {record['unsupported']}"
            self.left_out[what] = record["why"]
            return None
        if "versions" in record:
            self.versions[name] = record["versions"]
            return None
        if record["figure"] == "cold_start" and "cold_start" not in figures:
            return None
        record = {"system": name, "run": run + 1, "surface": SYSTEMS[name].surface} | record
        record["disturbed"] = statistics.is_disturbed(record)
        if record["seconds"] > PATIENCE_SECONDS and self.options.runs > 1:
            self.slow.add((name, record["figure"]))
        self.records.append(record)
        with open(self.output / "records.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return None

    def document(self):
        summaries = statistics.summarize(self.records)
        ours = [name for name in summaries if SYSTEMS[name].role == "ours"]
        systems = {
            name: dataclasses.asdict(SYSTEMS[name]) | {"versions": self.versions.get(name, {}), "figures": figures}
            for name, figures in summaries.items()
        }
        return {
            "began": self.began, "machine": machine.description(), "sizes": self.sizes, "runs": self.options.runs,
            "titles": report.titles(self.sizes), "ours": ours, "systems": systems,
            "ratios": statistics.ratios(summaries, ours), "left_out": self.left_out, "failures": self.failures,
            "not_repeated": sorted(f"{name} {figure}" for name, figure in self.slow),
        }

    def report(self):
        document = self.document()
        text = report.text(document)
        (self.output / "report.txt").write_text(text + "\n", encoding="utf-8")
        (self.output / "report.md").write_text(report.markdown(document), encoding="utf-8")
        (self.output / "report.json").write_text(
            json.dumps(report.jsonable(document) | {"records": self.records}, indent=1) + "\n", encoding="utf-8"
        )
        print(text)


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def whole(low, high):
    def parse(text):
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def names(text):
    """Systems in the order in which they are measured; ours are always among them."""
    wanted = [name for name in text.split(",") if name]
    for name in wanted:
        if name not in SYSTEMS:
            raise argparse.ArgumentTypeError(f"no system {name!r}; there are {', '.join(SYSTEMS)}")
    if not wanted:
        raise argparse.ArgumentTypeError("name at least one system")
    return [name for name in SYSTEMS if name in wanted or SYSTEMS[name].role == "ours"]


def program(text):
    path = pathlib.Path(text).resolve()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} is not a program that can be run")
    return path


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--funcx", type=program, metavar="PATH", help="the funcx binary; built from this repository if not given")
    known = ", ".join(SYSTEMS)
    add("--peers", type=names, default=list(SYSTEMS), metavar="LIST", help=f"only these and ours, out of {known}")
    add("--runs", type=whole(1, 100), metavar="N", help="runs of everything, 1 to 100; 5 if not given, 1 with --quick")
    add("--quick", action="store_true", help="small sizes, to see that everything works")
    place = {"type": pathlib.Path, "metavar": "DIR"}
    add("--output", **place, default="compare-report", help="where the report goes (default: %(default)s)")
    add("--cache", **place, default=install.default_cache(), help="where the peers are installed (default: %(default)s)")
    options = parser.parse_args(words)
    options.runs = options.runs or (1 if options.quick else 5)
    try:
        for directory in (options.output, options.cache):
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot make {error.filename}: {error.strerror}")
    options.output, options.cache = options.output.resolve(), options.cache.resolve()
    return options


#: A terminal that is closed ends what runs in it, unless `nohup` has said otherwise.
ENDING = [signal.SIGINT, signal.SIGTERM]
if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    ENDING.append(signal.SIGHUP)


def interrupted(*_):
    """Stops once; what follows must not be interrupted again."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main():
    options = arguments()
    for number in ENDING:
        signal.signal(number, interrupted)
    machine.adopt_orphans()
    comparison = Comparison(options, options.output)
    try:
        if not comparison.prepare():
            say("nothing is left to measure")
            return 1
        comparison.measure()
    except KeyboardInterrupt:
        say("interrupted; everything that was started is stopped")
        return 130
    finally:
        machine.end_descendants(os.getpid())
    comparison.report()
    return 1 if comparison.failures else 0


if __name__ == "__main__":
    sys.exit(main())
