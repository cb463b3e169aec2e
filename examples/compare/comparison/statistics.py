"""Figures out of records: medians, spread, and ratios. Nothing here measures, waits or prints."""
import dataclasses
import math

#: A figure that others took a larger share of the machine from is marked.
FOREIGN_PERCENT = 10


@dataclasses.dataclass(frozen=True)
class Figure:
    """Something that is measured."""

    title: str
    unit: str
    more_is_better: bool


#: Titles may name the size of a run.
FIGURES = {
    "cold_start": Figure("cold start to first result", "s", False),
    "round_trip": Figure("one warm no-op, p50", "ms", False),
    "round_trip_p99": Figure("one warm no-op, p99", "ms", False),
    "noop": Figure("{noop:,} no-ops at once", "tasks/s", True),
    "noop_large": Figure("{noop_large:,} no-ops at once", "tasks/s", True),
    "echo_1mib": Figure("1 MiB in and out", "tasks/s", True),
    "memory": Figure("memory per waiting task", "KiB", False),
    "recovery": Figure("{recovery} tasks of 100 ms, a worker killed", "s", False),
    "spawn": Figure("{spawn:,} processes at once", "tasks/s", True),
    "spawn_round_trip": Figure("one process, p50", "ms", False),
}


def percentile(values, share):
    """The smallest value that `share` percent of the values do not exceed."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def median(values):
    """The middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the runs of one figure of one system amount to."""

    median: float
    low: float
    high: float
    runs: int
    disturbed: int = 0
    #: Tasks that failed, in the run with most of them.
    failed: int = 0


def is_disturbed(record):
    """Whether others used the machine too much meanwhile."""
    return (record.get("foreign_percent") or 0) > FOREIGN_PERCENT


def summarize(records):
    """Summaries by system and figure, in the order in which they first appear."""
    groups = {}
    for record in records:
        if "figure" in record:
            groups.setdefault(record["system"], {}).setdefault(record["figure"], []).append(record)
    return {
        system: {figure: _summary(records) for figure, records in figures.items()} for system, figures in groups.items()
    }


def _summary(records):
    values = [record["value"] for record in records]
    disturbed = sum(map(is_disturbed, records))
    failed = max(record.get("failed", 0) for record in records)
    return Summary(median(values), min(values), max(values), len(values), disturbed, failed)


def ratio(figure, ours, peer):
    """How many times better ours is: above 1 ours wins, whichever way the figure counts. None where that says nothing."""
    better, worse = (ours, peer) if FIGURES[figure].more_is_better else (peer, ours)
    return better / worse if better > 0 and worse > 0 else None


def ratios(summaries, ours):
    """By system of ours, other system and figure. None where tasks failed: who gives up is soon done."""
    found = {}
    for mine in (name for name in summaries if name in ours):
        for other in (name for name in summaries if name not in ours):
            for figure, peer in summaries[other].items():
                if own := summaries[mine].get(figure):
                    value = None if own.failed or peer.failed else ratio(figure, own.median, peer.median)
                    found.setdefault(mine, {}).setdefault(other, {})[figure] = value
    return found


def parse_lines(text):
    """Records from JSON lines, and the lines that are none."""
    import json

    records, strange = [], []
    for line in text.splitlines():
        try:
            record = json.loads(line)
            records.append(record) if isinstance(record, dict) else strange.append(line)
        except ValueError:
            strange.append(line)
    return records, strange
