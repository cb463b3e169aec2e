"""The report: text for a terminal, Markdown, and a JSON document."""
import dataclasses

from .statistics import FIGURES, FOREIGN_PERCENT

MARK = "*"


def titles(sizes):
    return {name: figure.title.format(**sizes) for name, figure in FIGURES.items()}


def number(value):
    """Three digits that count, and thousands apart."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def times(value):
    return "–" if value is None else f"{number(value)}×"


def spread(summary):
    """Marks included."""
    text = f"{number(summary.low)}–{number(summary.high)}" if summary.runs > 1 else "one run"
    return text + MARK * bool(summary.disturbed)


def text(document):
    """A block per figure: all systems, and how many times better each of ours is."""
    out = [_machine(document), ""]
    systems, ours = document["systems"], document["ours"]
    for figure, title in document["titles"].items():
        measured = [name for name in systems if figure in systems[name]["figures"]]
        if not measured:
            continue
        mine = [name for name in ours if name in measured]
        header = ["", "median", "min–max", "runs", *(f"vs {name}" for name in mine)]
        rows = []
        for name in measured:
            got = systems[name]["figures"][figure]
            compared = [times(document["ratios"].get(own, {}).get(name, {}).get(figure)) for own in mine]
            remark = f" ({number(got.failed)} failed)" if got.failed else ""
            rows.append([name, number(got.median) + remark, spread(got), str(got.runs), *compared])
        out += [f"{title} [{FIGURES[figure].unit}]", *_columns([header, *rows]), ""]
    out += _notes(document)
    return "\n".join(out)


def _columns(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        yield "  " + "  ".join(cells).rstrip()


def markdown(document):
    """Medians with spread, then ratios."""
    systems, titles = document["systems"], document["titles"]
    figures = [name for name in titles if any(name in system["figures"] for system in systems.values())]
    units = [f"{titles[name]}, {FIGURES[name].unit}" for name in figures]
    out = [_machine(document), "", *_table(["system", *units], _cells(systems, figures))]
    for own, others in document["ratios"].items():
        compared = [name for name in figures if any(name in other for other in others.values())]
        rows = [
            [f"`{other}`", *(times(values[name]) if name in values else "" for name in compared)]
            for other, values in others.items()
        ]
        out += ["", f"How many times better `{own}` is than", "", *_table(["", *(titles[name] for name in compared)], rows)]
    return "\n".join([*out, "", *_notes(document), ""])


def _cells(systems, figures):
    for name, system in systems.items():
        cells = [f"`{name}`"]
        for figure in figures:
            got = system["figures"].get(figure)
            cells.append("" if got is None else _cell(got))
        yield cells


def _cell(summary):
    failed = f", {number(summary.failed)} failed" if summary.failed else ""
    return f"{number(summary.median)} ({spread(summary)}){failed}"


def _table(header, rows):
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _machine(document):
    machine = document["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"Python {machine['python']}; 2 workers; {document['began']}"
    )


def _notes(document):
    versions = (
        f"{name}: " + ", ".join(f"{package} {version}" for package, version in system["versions"].items())
        for name, system in document["systems"].items()
        if system["versions"]
    )
    out = [f"Versions: {'; '.join(versions)}."]
    out.append("Ratios above 1 say that ours is better.")
    out.append(f"{MARK} in some run others had more than {FOREIGN_PERCENT} % of the CPU time.")
    out += [f"Left out: {name}: {why}" for name, why in document["left_out"].items()]
    out += [f"Failed: {failure['system']}, run {failure['run']}: {failure['error']}" for failure in document["failures"]]
    out += [f"Not repeated, as it took long: {name}." for name in document["not_repeated"]]
    return out


def jsonable(document):
    """The document with summaries as objects."""
    systems = {
        name: system | {"figures": {key: dataclasses.asdict(value) for key, value in system["figures"].items()}}
        for name, system in document["systems"].items()
    }
    return document | {"systems": systems}
