"""Results on a terminal."""

from __future__ import annotations

from cowstore.bench.timing import median
from cowstore.bench.words import figure, spread, summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.bench.compare import Comparison
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
    wide = max((len(series.subject) for series in run.series), default=0)
    print(f"{'':{wide}} {'':52} {'median':>9}  {'middle half':24} repeats")
    for series in run.series:
        print(
            f"{series.subject:{wide}} {series.label:52} {figure(median(series.values), series.unit):>9}  "
            f"{spread(series):24} {len(series.values)}"
        )


def _line(budget: Budget) -> str:
    verdict = "ok  " if budget.met else "OVER"
    value, limit = _value(budget, budget.value), _value(budget, budget.limit)
    return f"{verdict}  {budget.name:22} {value:>9} of {limit:<8} {_range(budget).strip():14} {budget.what}"


def _range(budget: Budget) -> str:
    """Return the spread of a budget's figure, in its unit, with a space before it."""
    return "" if budget.low is None or budget.high is None else f" ({budget.low:.2f} to {budget.high:.2f})"


def _value(budget: Budget, value: float) -> str:
    return f"{value:.2f}x" if budget.unit == "x" else f"{value:.2f} {budget.unit}"


def show_differences(found: Comparison, *, everything: bool) -> None:
    """Print what changed, how much of that chance may be, and what the machine itself did."""
    for one in found.differences:
        if not everything and one.verdict == "same":
            continue
        before, after = (figure(median(side.values), side.unit) for side in (one.old, one.new))
        print(
            f"{one.verdict:7} {one.new.subject:14} {one.new.label:52} {before:>9} to {after:>9}  "
            f"{one.ratio:5.2f}x{' to its floor' if one.floored else ''}  p={one.p:.3g}"
        )
    for old, new in found.apart:
        print(f"apart   {new.name:22} {_value(old, old.value)}{_range(old)} to {_value(new, new.value)}{_range(new)}")
    low, high = found.drift
    print(f"the machine: floors took {low:.2f} to {high:.2f} times as long as before")
    number = len(found.differences)
    changed = sum(one.verdict in {"better", "worse"} for one in found.differences)
    print(
        f"{number} figures in both: {changed} changed beyond that, {number - changed} did not; of as many that are the "
        f"same, {max(1, round(number / 100))} may be called changed by chance"
    )
    if found.budgets:
        print(f"{found.budgets} budgets in both: the spreads of {found.budgets - len(found.apart)} touch")
