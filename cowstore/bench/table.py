"""Results on a terminal."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.bench.results import Budget, Run


def show(run: Run) -> None:
    """Print a run: the machine, its budgets, what is absent."""
    found = run.machine
    print(
        f"{run.suite}: cowstore {found.get('cowstore')}, Linux {found.get('kernel')}, {found.get('processors')} x "
        f"{found.get('processor')}, {found.get('file_system')}, seed {run.seed}, {run.seconds:.0f} s"
    )
    load, processors = found.get("load"), found.get("processors")
    if isinstance(load, float) and isinstance(processors, int) and load > processors / 2:
        print(f"warning: others kept this machine busy at the start (load {load}): only the ratios mean anything")
    for budget in run.budgets:
        print(_line(budget))
    for subject, reason in sorted(run.absent.items()):
        print(f"absent  {subject}: {reason}")
    for budget in run.over:
        print(
            f"above budget: {budget.name} is {_value(budget, budget.value)}, at most {_value(budget, budget.limit)} "
            "is allowed"
        )


def _line(budget: Budget) -> str:
    verdict = "ok  " if budget.met else "OVER"
    value, limit = _value(budget, budget.value), _value(budget, budget.limit)
    return f"{verdict}  {budget.name:22} {value:>9} of {limit:<8} {budget.what}"


def _value(budget: Budget, value: float) -> str:
    return f"{value:.2f}x" if budget.unit == "x" else f"{value:.2f} {budget.unit}"
