"""Results on a terminal."""

from __future__ import annotations

from cowstore.bench.timing import median
from cowstore.bench.words import figure, spread, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cowstore.bench.compare import Difference
    from cowstore.bench.results import Budget, Run


def show(run: Run) -> None:
    """Print a run: the machine, the figures, the budgets, what is absent, and what it means."""
    found = run.machine
    print(
        f"{run.suite}: cowstore {found.get('cowstore')}, Linux {found.get('kernel')}, {found.get('processors')} x "
        f"{found.get('processor')}, {found.get('file_system')}, seed {run.seed}, {run.seconds:.0f} s"
    )
    load, processors = found.get("load"), found.get("processors")
    if isinstance(load, float) and isinstance(processors, int) and load > processors / 2:
        print(f"warning: others kept this machine busy at the start (load {load}): only the ratios mean anything")
    if run.suite != "quick":
        _show_series(run)
    for budget in run.budgets:
        print(_line(budget))
    for subject, reason in sorted(run.absent.items()):
        print(f"absent  {subject}: {reason}")
    for work, text in summary(run):
        print(f"{work}: {text}")
    for budget in run.over:
        print(
            f"above budget: {budget.name} is {_value(budget, budget.value)}, at most {_value(budget, budget.limit)} "
            "is allowed"
        )


def _show_series(run: Run) -> None:
    print(f"{'':14} {'':52} {'median':>9}  {'middle half':24} repeats")
    for series in run.series:
        print(
            f"{series.subject:14} {series.label:52} {figure(median(series.values), series.unit):>9}  "
            f"{spread(series):24} {len(series.values)}"
        )


def _line(budget: Budget) -> str:
    verdict = "ok  " if budget.met else "OVER"
    value, limit = _value(budget, budget.value), _value(budget, budget.limit)
    return f"{verdict}  {budget.name:22} {value:>9} of {limit:<8} {budget.what}"


def _value(budget: Budget, value: float) -> str:
    return f"{value:.2f}x" if budget.unit == "x" else f"{value:.2f} {budget.unit}"


def show_differences(found: Sequence[Difference], *, everything: bool) -> None:
    """Print what changed, and how much of that chance may be."""
    shown = [one for one in found if everything or one.verdict != "same"]
    for one in shown:
        before, after = (figure(median(side.values), side.unit) for side in (one.old, one.new))
        print(
            f"{one.verdict:7} {one.new.subject:14} {one.new.label:52} {before:>9} to {after:>9}  "
            f"{one.ratio:5.2f}x  p={one.p:.3g}"
        )
    same = sum(one.verdict == "same" for one in found)
    print(
        f"{len(found)} figures in both: {len(found) - same} changed, {same} did not; "
        f"of as many that are the same, {max(1, round(len(found) / 100))} may be called changed by chance"
    )
