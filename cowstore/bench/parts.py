"""A suite in parts that are measured in passes: every part once, then every part again.

A part is a generator: it makes ready what it measures, yields what measures one pass of it, and at the end adds its
series and its verdict.
"""

from __future__ import annotations

import itertools
from contextlib import ExitStack, closing

from cowstore.bench.synthetic import Recipe, edit, grow
from cowstore.bench.timing import Passes, median, undisturbed
from cowstore.bench.words import figure
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from typing import TypeAlias

    from cowstore.bench.results import Parameter, Run
    from cowstore.bench.scratch import Scratch
    from cowstore.bench.timing import Found, Step
    from cowstore.store import Store

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
        self, workload: str, subject: str, phase: str, found: Found, name: str, *,
        floor: str | None = None, notes: Sequence[str] = (), **parameters: Parameter,
    ) -> None:  # fmt: skip
        """Add what was found of the step *name* as a series."""
        self.run.add(
            workload, subject, phase, found.found[name], floor=floor, notes=notes, passes=found.count,
            unit="s", better="less", **parameters,
        )  # fmt: skip

    def told(self, name: str, subject: str, steps: dict[str, Step], rounds: int) -> Part:
        """Measure what :func:`looks` made of a small and a large tree, and judge it by the name of a budget."""
        found = self.passes(steps, rounds)
        yield found
        small, large = steps
        for files in (small, large):
            self.add("changes", subject, "10 edits", found, files, files=int(files))
        self.run.judge(
            name, found.figure(lambda of: of[large] / of[small]), 1.3,
            f"changes of 10 edits in {large} files {took(found, large)} against {small} {took(found, small)}",
        )  # fmt: skip


def looks(store: Store, sizes: Iterable[int], seed: int, commit: Callable[[str, Recipe], str]) -> dict[str, Step]:
    """Make ten edits over a tree of each size; returns what tells their changes, by the size.

    :param commit: makes a committed snapshot of about that name with the files of the recipe; returns its key.
    """
    steps: dict[str, Step] = {}
    for files in sizes:
        recipe, key = Recipe(files, median_bytes=30, seed=seed), f"edited-{files}"
        store.prepare(key, commit(f"tree-{files}", recipe))
        with store.mounted(key) as root:
            edit(str(root), recipe, 10)

        def look(key: str = key) -> None:
            found = list(store.changes(key))
            if sum("/file-" in one.path for one in found) < 10 or sum(one.kind != "modified" for one in found) < 6:
                raise CowstoreError(f"the changes of {key} are not complete")

        steps[str(files)] = look
    return steps


def adopted(store: Store, scratch: Scratch) -> Callable[[str, Recipe], str]:
    """Return what commits a tree that is made outside the store, for :func:`looks`."""

    def commit(key: str, recipe: Recipe) -> str:
        tree = scratch.directory("tree")
        grow(tree, recipe)
        return store.adopt(key, tree).key

    return commit


def took(found: Found, name: str) -> str:
    """Return the median of a step, for people."""
    return figure(median(found.found[name]), "s")
