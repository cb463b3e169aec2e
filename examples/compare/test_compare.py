"""Tests of what needs neither peers nor network: `python3 examples/compare/test_compare.py`."""
import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import types
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import compare  # noqa: E402
from comparison import install, machine, report, statistics, work  # noqa: E402
from comparison.systems import SYSTEMS, bare_loop, funcx_fabric, funcx_http  # noqa: E402


OURS = [name for name, spec in SYSTEMS.items() if spec.role == "ours"]


def record(system, figure, value, **more):
    return {"system": system, "figure": figure, "value": value} | more


class Statistics(unittest.TestCase):
    def test_percentile_is_a_value_that_was_measured(self):
        values = list(range(1, 101))
        for share, want in ((50, 50), (99, 99), (100, 100), (1, 1), (0, 1)):
            self.assertEqual(statistics.percentile(values, share), want)
        self.assertEqual(statistics.percentile([7], 99), 7)
        self.assertEqual(statistics.percentile([3, 1, 2], 50), 2)

    def test_median(self):
        self.assertEqual(statistics.median([5, 1, 3]), 3)
        self.assertEqual(statistics.median([4, 1, 3, 2]), 2.5)

    def test_nothing_has_no_median(self):
        self.assertRaises(ValueError, statistics.median, [])
        self.assertRaises(ValueError, statistics.percentile, [], 50)

    def test_summary_of_runs(self):
        records = [record("dask", "noop", value, foreign_percent=foreign) for value, foreign in ((3, 0), (1, 50), (2, None))]
        records.append({"system": "dask", "versions": {}})
        summary = statistics.summarize(records)["dask"]["noop"]
        self.assertEqual(summary, statistics.Summary(median=2, low=1, high=3, runs=3, disturbed=1, failed=0))

    def test_ten_percent_is_not_more_than_ten_percent(self):
        self.assertFalse(statistics.is_disturbed({"foreign_percent": 10}))
        self.assertTrue(statistics.is_disturbed({"foreign_percent": 10.1}))
        self.assertFalse(statistics.is_disturbed({}))

    def test_ratios_above_one_are_ours_to_boast_of_whichever_way_the_figure_counts(self):
        records = [
            record("ours", "noop", 1000), record("ours", "round_trip", 2), record("ours", "cold_start", 1),
            record("peer", "noop", 100), record("peer", "round_trip", 20), record("other", "noop", 4000),
        ]
        ratios = statistics.ratios(statistics.summarize(records), ["ours"])
        self.assertEqual(ratios, {"ours": {"peer": {"noop": 10, "round_trip": 10}, "other": {"noop": 0.25}}})

    def test_no_ratio_where_tasks_failed(self):
        records = [
            record("ours", "recovery", 6), record("peer", "recovery", 5), record("peer", "recovery", 1, failed=70),
            record("peer", "recovery", 5),
        ]
        summaries = statistics.summarize(records)
        self.assertEqual(summaries["peer"]["recovery"].failed, 70)
        self.assertEqual(statistics.ratios(summaries, ["ours"]), {"ours": {"peer": {"recovery": None}}})

    def test_no_ratio_to_nothing(self):
        self.assertIsNone(statistics.ratio("memory", 1.0, 0.0))
        self.assertIsNone(statistics.ratio("memory", -0.5, 1.0))

    def test_lines(self):
        text = '{"figure": "noop"}\nnoise\n[1]\n{"versions": {}}\n'
        self.assertEqual(statistics.parse_lines(text), ([{"figure": "noop"}, {"versions": {}}], ["noise", "[1]"]))


class Report(unittest.TestCase):
    def document(self):
        records = [
            record("funcx-http", "noop", 20_000.0), record("funcx-http", "noop", 10_000.0),
            record("dask", "noop", 500.0, foreign_percent=60.0), record("process-pool", "recovery", 1.5, failed=70),
        ]
        summaries = statistics.summarize(records)
        return {
            "began": "today", "machine": machine.description(), "sizes": compare.FULL, "runs": 2,
            "titles": report.titles(compare.FULL), "ours": ["funcx-http"],
            "systems": {name: {"versions": {"v": "1"}, "figures": figures} for name, figures in summaries.items()},
            "ratios": statistics.ratios(summaries, ["funcx-http"]), "left_out": {"celery": "no redis-server in PATH"},
            "failures": [{"system": "ray", "run": 1, "error": "Wrong: task 3"}], "not_repeated": ["parsl recovery"],
        }

    def test_numbers(self):
        for value, want in ((1234.5, "1,234"), (99.94, "99.9"), (0.1234, "0.123"), (0, "0"), (None, "–"), (0.0001, "1.0e-04")):
            self.assertEqual(report.number(value), want)

    def test_text_says_all(self):
        text = report.text(self.document())
        for part in ("10,000 no-ops at once [tasks/s]", "15,000", "10,000–20,000", "30×", "one run*", "1.5 (70 failed)"):
            self.assertIn(part, text)
        for part in ("Left out: celery: no redis-server", "Failed: ray, run 1: Wrong: task 3", "parsl recovery"):
            self.assertIn(part, text)

    def test_markdown_tables_are_regular(self):
        text = report.markdown(self.document())
        self.assertIn("| `funcx-http` | 15,000 (10,000–20,000) |  |", text)
        self.assertIn("How many times better `funcx-http` is than", text)
        for block in text.split("\n\n"):
            rows = [line for line in block.splitlines() if line.startswith("|")]
            self.assertLessEqual(len({row.count("|") for row in rows}), 1, block)

    def test_json(self):
        document = json.loads(json.dumps(report.jsonable(self.document())))
        self.assertEqual(document["systems"]["dask"]["figures"]["noop"]["median"], 500)


class Systems(unittest.TestCase):
    def test_each_names_figures_that_there_are_and_a_module(self):
        for name, spec in SYSTEMS.items():
            with self.subTest(name):
                self.assertLessEqual(set(spec.figures), set(statistics.FIGURES))
                self.assertTrue((HERE / "comparison" / "systems" / f"{spec.module}.py").is_file())
                self.assertIn(spec.role, ("ours", "peer", "floor"))
                self.assertTrue(all("==" in requirement for requirement in spec.requirements))

    def test_both_sizes_name_the_same_figures(self):
        self.assertEqual(compare.FULL.keys(), compare.QUICK.keys())
        self.assertLessEqual(compare.FULL.keys(), statistics.FIGURES.keys())

    def test_requests_are_bounded_by_count_and_by_bytes(self):
        self.assertEqual([len(part) for part in funcx_fabric.chunks(list(range(25_000)))], [10_000, 10_000, 5_000])
        large = ["x" * (1 << 20)] * 33
        self.assertEqual([len(part) for part in funcx_fabric.chunks(large)], [16, 16, 1])
        self.assertEqual(list(funcx_fabric.chunks([])), [])

    def test_events_may_be_cut_anywhere(self):
        events = b": keep-alive\n\n" + b"".join(
            b'event: outcome\nid: %d\ndata: {"task_id": "%d", "text": "a: b"}\n\n' % (id, id) for id in range(3)
        )
        events += b'event: lagged\ndata: {}\n\n'
        for size in range(1, len(events) + 1):
            pieces = iter([events[at : at + size] for at in range(0, len(events), size)] + [b""])
            stream = types.SimpleNamespace(read1=lambda _: next(pieces))
            self.assertEqual([task["task_id"] for task in funcx_http.outcomes(stream)], ["0", "1", "2"])

    def test_what_did_not_return_is_no_value(self):
        self.assertEqual(funcx_http.value({"outcome": "returned", "result": 3}), 3)
        lost = funcx_http.value({"outcome": "lost", "failure": {"message": "worker killed"}})
        self.assertEqual(str(lost), "worker killed")
        self.assertEqual(str(funcx_http.value({"outcome": "cancelled"})), "cancelled")

    def test_the_values_of_a_map(self):
        mapped = {"values": [1, None], "failures": {"1": {"message": "no"}}}
        one, two = funcx_http.value({"outcome": "returned", "map": True, "result": mapped})
        self.assertEqual((one, str(two)), (1, "no"))

    def test_frames_may_be_cut_anywhere(self):
        data = bare_loop.frame(b"one") + bare_loop.frame(b"") + bare_loop.frame(b"three")
        for cut in range(len(data) + 1):
            first, rest = bare_loop.split(data[:cut])
            second, rest = bare_loop.split(rest + data[cut:])
            self.assertEqual((first + second, rest), ([b"one", b"", b"three"], b""))


class Machine(unittest.TestCase):
    def test_foreign_share(self):
        self.assertEqual(machine.foreign_percent(used=1.5, own=1.0, total=2.0), 25.0)
        self.assertEqual(machine.foreign_percent(used=1.0, own=1.1, total=2.0), 0.0)
        self.assertIsNone(machine.foreign_percent(used=0.01, own=0.0, total=0.02))

    def test_orphans_are_found_and_ended(self):
        # In a process of its own, as it becomes the parent of orphans for good.
        program = (
            "import os, subprocess, sys\n"
            "from comparison import machine\n"
            "machine.adopt_orphans()\n"
            "subprocess.run(['sh', '-c', 'setsid sleep 1000 & trap \"\" TERM; sleep 1000 & exit 0'])\n"
            "print(len(machine.descendants(os.getpid())))\n"
            "machine.end_descendants(os.getpid(), patience=0.1)\n"
            "print(len(machine.descendants(os.getpid())))\n"
        )
        told = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True, timeout=60)
        self.assertEqual((told.stdout, told.stderr), ("2\n0\n", ""))


class CommandLine(unittest.TestCase):
    def parse(self, *words):
        with tempfile.TemporaryDirectory() as directory:
            return compare.arguments(["--output", directory, "--cache", directory, *words])

    def refusal(self, *words):
        said = io.StringIO()
        with contextlib.redirect_stderr(said), self.assertRaises(SystemExit) as ended:
            self.parse(*words)
        self.assertEqual(ended.exception.code, 2)
        return said.getvalue()

    def test_defaults(self):
        self.assertEqual((self.parse().runs, self.parse("--quick").runs), (5, 1))
        self.assertEqual(self.parse("--quick", "--runs", "3").runs, 3)
        self.assertEqual(self.parse().peers, list(SYSTEMS))

    def test_ours_are_always_among_them(self):
        self.assertEqual(self.parse("--peers", "ray,dask").peers, [*OURS, "dask", "ray"])

    def test_refusals_name_the_thing_and_what_may_be(self):
        self.assertIn("no system 'parcel'; there are funcx-http", self.refusal("--peers", "parcel"))
        self.assertIn("name at least one system", self.refusal("--peers", ","))
        for runs in ("0", "101", "-1", "many", "1.5"):
            self.assertIn("is not a whole number from 1 to 100", self.refusal(f"--runs={runs}"))
        self.assertIn("is not a program that can be run", self.refusal("--funcx", "/nonexistent/funcx"))
        self.assertIn("cannot make", self.refusal("--output", "/proc/nowhere/report"))


class Harness(unittest.TestCase):
    """The whole harness, over the system that needs nothing."""

    def comparison(self, directory, figures=("round_trip", "noop"), **sizes):
        options = types.SimpleNamespace(quick=True, runs=1, funcx=None, peers=["bare-loop"], cache=directory)
        made = compare.Comparison(options, directory)
        made.sizes = compare.QUICK | sizes
        made.pythons, made.funcx = {"bare-loop": sys.executable}, ""
        return made

    def test_a_run(self):
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
            comparison = self.comparison(pathlib.Path(name), round_trip=5, noop=300, noop_large=500)
            comparison.measure()
            with contextlib.redirect_stdout(io.StringIO()) as said:
                comparison.report()
            document = json.loads((pathlib.Path(name) / "report.json").read_text(encoding="utf-8"))
        self.assertEqual(comparison.failures, [])
        self.assertEqual(
            [(one["figure"], one.get("checked")) for one in document["records"]],
            [("round_trip", 5), ("round_trip_p99", 5), ("noop", 300), ("noop_large", 500)],
        )
        self.assertIn("bare-loop", said.getvalue())

    def test_a_driver_that_fails_is_told_of(self):
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
            comparison = self.comparison(pathlib.Path(name))
            comparison.drive("bare-loop", 0, ["spawn"])
        (failure,) = comparison.failures
        self.assertIn("AttributeError", failure["error"])
        self.assertEqual(comparison.records, [])

    def test_interrupted_it_leaves_nothing_behind(self):
        for number in (signal.SIGINT, signal.SIGHUP):
            with self.subTest(signal=number):
                self.interrupt(number)

    def interrupt(self, number):
        with tempfile.TemporaryDirectory() as directory:
            stuck, started = pathlib.Path(directory) / "funcx", pathlib.Path(directory) / "started"
            os.mkfifo(started)
            # Says which process it is, and never becomes ready.
            stuck.write_text(f"#!/bin/sh\necho $$ > {started}\nexec sleep 1000\n", encoding="ascii")
            stuck.chmod(0o755)
            options = ["--funcx", stuck, "--peers", "bare-loop", "--output", directory, "--cache", directory]
            environment = os.environ | {"TMPDIR": directory}
            harness = subprocess.Popen(
                [sys.executable, HERE / "compare.py", *options],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
                # These tests may have been started by `nohup`, which the harness would heed.
                preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
            )
            pid = int(started.read_text(encoding="ascii"))
            harness.send_signal(number)
            _, said = harness.communicate(timeout=60)
            self.assertEqual(harness.returncode, 130, said)
            self.assertIn("interrupted; everything that was started is stopped", said)
            self.assertFalse(os.path.exists(f"/proc/{pid}"))
            self.assertEqual(list(pathlib.Path(directory).glob("compare-*")), [])

    def test_requirements_that_cannot_be_installed(self):
        spec = types.SimpleNamespace(program="no-such-program", requirements=())
        with self.assertRaisesRegex(install.Unavailable, "no no-such-program in PATH"):
            install.interpreter(spec, None, None, None)


class Work(unittest.TestCase):
    def test_functions(self):
        self.assertEqual((work.noop(3), work.echo("x"), work.nap(0)), (3, "x", os.getpid()))
        with tempfile.NamedTemporaryFile() as gate:
            self.assertEqual(work.wait_for(gate.name), os.getpid())


if __name__ == "__main__":
    unittest.main()
