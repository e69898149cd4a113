"""A suite in parts that are measured in passes: every part once, then every part again.

A part is a generator: it makes ready what it measures, yields what measures one pass of it, and at the end adds its
series and its verdict.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, closing

from cowstore.bench.timing import Passes, median, undisturbed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from typing import TypeAlias

    from cowstore.bench.results import Parameter, Run
    from cowstore.bench.scratch import Scratch
    from cowstore.bench.timing import Step

    Part: TypeAlias = Generator[Callable[[], object], None, None]

PASSES = 5
"""With as many in two runs it can just be shown that they differ."""


def measure(run: Run, parts: Mapping[str, Callable[[], Part]], say: Callable[[str], None]) -> None:
    """Measure all *parts*; one that yields nothing cannot be measured here."""
    with ExitStack() as stack:
        ready: list[tuple[str, Part, Callable[[], object]]] = []
        for name, part in parts.items():
            say(f"{name}: getting ready")
            made = stack.enter_context(closing(part()))
            ready += [(name, made, one) for one in itertools.islice(made, 1)]
        for number in range(PASSES):
            for name, _, one in ready:
                say(f"{name}: {number + 1} of {PASSES}")
                with undisturbed():
                    one()
        for _, made, _ in ready:
            next(made, None)
    run.method.append(
        f"Every part was measured in {PASSES} passes, all parts in each, so that the passes of one lie apart in time; "
        "a budget's figure is the median of its passes, its spread from the lowest to the highest."
    )


class Parts:
    """What the parts of a suite have in common."""

    def __init__(self, run: Run, scratch: Scratch) -> None:
        self.run = run
        self.scratch = scratch

    def passes(self, steps: Mapping[str, Step], rounds: int, *, warm_up: int = 2) -> Passes:
        """Return what measures *steps* so many times in each pass."""
        return Passes(steps, rounds, seed=self.run.seed, warm_up=warm_up)

    def add(
        self, workload: str, subject: str, phase: str, found: Passes, name: str, *,
        floor: str | None = None, notes: Sequence[str] = (), **parameters: Parameter,
    ) -> None:  # fmt: skip
        """Add what was found of the step *name* as a series."""
        self.run.add(
            workload, subject, phase, found.found[name], floor=floor, notes=notes, passes=found.count,
            unit="s", better="less", **parameters,
        )  # fmt: skip


def us(found: Passes, name: str) -> str:
    """Return a median in microseconds."""
    return f"{median(found.found[name]) * 1e6:.0f} µs"


def ms(found: Passes, name: str) -> str:
    """Return a median in milliseconds."""
    return f"{median(found.found[name]) * 1e3:.1f} ms"
