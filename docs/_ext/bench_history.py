"""Writes the page of the results that are kept in benchmarks/results, from the files themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cowstore.bench.results import load
from cowstore.bench.timing import median
from cowstore.bench.words import figure, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

    from cowstore.bench.results import Run

DOCS = Path(__file__).resolve().parent.parent
RESULTS = DOCS.parent / "benchmarks" / "results"


def page(results: Path) -> str:
    """Return the history: for each file what it was taken on, its budgets, and what it says of the drivers."""
    return "\n".join(line for path in sorted(results.glob("*.json"), reverse=True) for line in section(path))


def section(path: Path) -> Iterator[str]:
    """Yield the lines about one run."""
    run = load(str(path))
    found = run.machine
    yield f"### {path.stem}\n"
    yield (
        f"cowstore {found['cowstore']}, Linux {found['kernel']}, {found['processors']} processors "
        f"({found['processor']}), {found['file_system']} below, load {found['load']} at the start, "
        f"{run.seconds:.0f} s; `benchmarks/results/{path.name}`\n"
    )
    if run.budgets:
        yield "| budget | found | in one pass | at most | what |\n|---|---|---|---|---|"
        for budget in run.budgets:
            value = f"{budget.value:g} {budget.unit}{'' if budget.met else ' **above**'}"
            spread = "" if budget.low is None else f"{budget.low:g} to {budget.high:g}"
            yield f"| {budget.name} | {value} | {spread} | {budget.limit:g} {budget.unit} | {budget.what} |"
        yield ""
    words = summary(run)
    if words:
        yield "| work | drivers |\n|---|---|"
        yield from (f"| {work} | {text} |" for work, text in words)
        yield ""
    if run.suite == "peers":
        yield from peers(run)
    if run.suite == "scale":
        yield from lives(run)


def peers(run: Run) -> Iterator[str]:
    """Yield the table of the tools beside each other."""
    phases = list(dict.fromkeys(series.phase for series in run.series))
    yield f"| tool | {' | '.join(phases)} |\n|---|{'---|' * len(phases)}"
    for subject in dict.fromkeys(series.subject for series in run.series):
        cells = {
            series.phase: figure(median(series.values), series.unit)
            for series in run.series
            if series.subject == subject
        }
        yield f"| {subject} | {' | '.join(cells.get(phase, '') for phase in phases)} |"
    yield ""


def lives(run: Run) -> Iterator[str]:
    """Yield the table of the lives of one more snapshot, by how many there are."""
    found = [series for series in run.series if series.phase == "life"]
    counts = sorted({int(series.parameters["snapshots"]) for series in found})
    yield f"| one more beside | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}"
    for subject in dict.fromkeys(series.subject for series in found):
        cells = {
            series.parameters["snapshots"]: figure(median(series.values), series.unit)
            for series in found
            if series.subject == subject
        }
        yield f"| {subject} | {' | '.join(cells.get(count, '') for count in counts)} |"
    yield ""


def write() -> None:
    """Write the page, if it has changed."""
    target = DOCS / "_generated" / "bench-history.md"
    target.parent.mkdir(exist_ok=True)
    text = page(RESULTS) or "No results are kept yet.\n"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the page once the configuration is known, before any source is read."""
    app.connect("config-inited", lambda _app, _config: write())
    return {"parallel_read_safe": True}
