"""Which driver for which work, in words, derived from the figures of a run and from nothing else."""

from __future__ import annotations

from cowstore.bench.results import FLOOR, MORE
from cowstore.bench.timing import median, quartiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from cowstore.bench.results import Run, Series

    Part: TypeAlias = tuple[str, str] | tuple[str, str, int]

#: Works that people choose a driver for: what it is called, and the (workload, phase) whose figures decide; of several
#: sizes the largest, or that with so many edits.
WORKS: tuple[tuple[str, tuple[Part, ...]], ...] = (
    (
        "a fresh root for every job",
        (("life", "prepare"), ("life", "mount"), ("life", "unmount"), ("life", "remove")),
    ),
    ("starting programs", (("start", "true"),)),
    (
        "many layers",
        (("containerd-layers", "prepare"), ("containerd-layers", "write"), ("containerd-layers", "commit")),
    ),
    ("small writes into large files of the parent", (("first-write", "first"),)),
    ("databases: random writes, each synced", (("overwrite", "write and fsync"),)),
    ("many small files", (("small-files", "make"), ("small-files", "remove"))),
    ("installing packages", (("package-install", "install"),)),
    ("checking out and building", (("git-checkout", "checkout"), ("build", "make"))),
    ("telling a few changes in a large tree", (("changes", "list", 10),)),
    ("telling many changes", (("changes", "list"),)),
    ("layers out and in", (("changes", "export"), ("changes", "apply"))),
    ("reading the whole tree, at first", (("walk", "read all, first time in this child"),)),
    ("reading it again", (("walk", "read all, warm"),)),
    ("many snapshots at once", (("parallel", "all"),)),
    ("many containers at once", (("containers", "true"),)),
    ("little space for each change", (("space", "bytes taken per byte changed"),)),
)

_NEAR = 1.15
"""A driver within this of the best is named beside it."""


def summary(run: Run) -> list[tuple[str, str]]:
    """Return (work, sentence) for every work that at least two drivers were measured at."""
    found = []
    for work, parts in WORKS:
        scores = _scores(run, parts)
        if len(scores) >= 2:
            found.append((work, _sentence(scores)))
    found.extend(_shared_cache(run))
    return found


def _scores(run: Run, parts: tuple[Part, ...]) -> dict[str, tuple[float, str, bool]]:
    """Return for each driver that did all parts: the sum of its medians, the unit, and whether more is better."""
    chosen = {part: _largest(run, part) for part in parts}
    subjects: dict[str, list[Series]] = {}
    for series in chosen.values():
        for one in series:
            subjects.setdefault(one.subject, []).append(one)
    return {
        subject: (sum(median(one.values) for one in series), series[0].unit, series[0].better == MORE)
        for subject, series in subjects.items()
        if len(series) == len(parts) and not subject.startswith(FLOOR) and "@" not in subject
    }


def _largest(run: Run, part: Part) -> list[Series]:
    """Return the series of a phase with the largest parameters that all its subjects have."""
    workload, phase, *edits = part
    series = [
        one
        for one in run.series
        if (one.workload, one.phase) == (workload, phase) and (not edits or one.parameters.get("edits") == edits[0])
    ]
    by_parameters: dict[tuple[tuple[str, object], ...], list[Series]] = {}
    for one in series:
        by_parameters.setdefault(tuple(sorted(one.parameters.items())), []).append(one)
    if not by_parameters:
        return []
    most = max(len(members) for members in by_parameters.values())
    return max(
        (item for item in by_parameters.items() if len(item[1]) == most),
        key=lambda item: [str(v).zfill(12) for _, v in item[0]],
    )[1]


def _sentence(scores: dict[str, tuple[float, str, bool]]) -> str:
    reverse = next(iter(scores.values()))[2]
    ranked = sorted(scores.items(), key=lambda item: item[1][0], reverse=reverse)
    (best, (top, unit, _)), (last, (bottom, _, _)) = ranked[0], ranked[-1]
    near = [name for name, (value, _, _) in ranked[1:] if _factor(value, top) <= _NEAR]
    named = " and ".join([best, *near]) if near else best
    text = f"{named} ({figure(top, unit)})"
    if _factor(bottom, top) <= _NEAR:
        return f"no driver stands out: {figure(top, unit)} to {figure(bottom, unit)}"
    if len(ranked) > 1 + len(near):
        second, (value, _, _) = ranked[1 + len(near)]
        text += f"; then {second} with {_times(_factor(value, top))} as much"
        if last != second:
            text += f", last {last} with {_times(_factor(bottom, top))}"
    return text


def _factor(value: float, best: float) -> float:
    if best <= 0 or value <= 0:
        return float("inf") if value != best else 1.0
    return max(value / best, best / value)


def _times(factor: float) -> str:
    if factor == float("inf"):
        return "incomparably"
    return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"


def _shared_cache(run: Run) -> list[tuple[str, str]]:
    shares = {one.subject: median(one.values) for one in run.of("page-cache") if one.unit == "1"}
    if not shares:
        return []
    yes = [name for name, share in shares.items() if share > 0.9]
    no = [name for name, share in shares.items() if share <= 0.9]
    if not yes:
        return [("memory with many containers", f"each child caches its own copy of what it reads: {', '.join(no)}")]
    text = f"{' and '.join(yes)} keep{'s' if len(yes) == 1 else ''} one copy of a file for all children in memory"
    return [("memory with many containers", text + (f"; {', '.join(no)} one for each" if no else ""))]


def figure(value: float, unit: str) -> str:
    """Return a figure with its unit, three digits of it."""
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
            if value * factor >= 1 or name == "µs":
                return f"{_digits(value * factor)} {name}"
    if unit == "B":
        for shift, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
            if value >= 1 << shift:
                return f"{_digits(value / (1 << shift))} {name}"
        return f"{value:.0f} B"
    return _digits(value) if unit == "1" else f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(series: Series) -> str:
    """Return the middle half of a series, in its unit."""
    low, high = quartiles(series.values)
    return f"{figure(low, series.unit)} to {figure(high, series.unit)}"
