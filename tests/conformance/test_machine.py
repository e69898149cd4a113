"""A state machine over all verbs and kinds of files: what fails is shrunk to a short script, which is printed.

The examples are derived from this file and not from chance, so that every driver plays the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cowstore.testing import Factory, model

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = st.sampled_from(model.KEYS)
PATHS = st.sampled_from(model.PATHS)

SETTINGS = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=10,
    stateful_step_count=40,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    print_blob=False,
)


class Machine(RuleBasedStateMachine):
    """Each rule is a verb of the player, which asserts that store and model agree."""

    def __init__(self, factory: Factory) -> None:
        super().__init__()
        self.player = model.Player(factory)
        self.failed = True

    def teardown(self) -> None:
        self.player.close(failed=True)

    def _any(self, kind: str, number: int) -> str | None:
        found = [key for key, known in self.player.model.items() if known.kind == kind]
        return found[number % len(found)] if found else None

    @rule(key=KEYS)
    def prepare_empty(self, key: str) -> None:
        self.player.prepare(key, None)

    @rule(key=KEYS, parent=KEYS)
    def prepare(self, key: str, parent: str) -> None:
        self.player.prepare(key, parent)

    @rule(key=KEYS, number=st.integers(0, 5))
    def prepare_child(self, key: str, number: int) -> None:
        self.player.prepare(key, self._any("committed", number))

    @rule(key=KEYS, parent=KEYS)
    def view(self, key: str, parent: str) -> None:
        self.player.view(key, parent)

    @rule(name=KEYS, key=KEYS)
    def commit(self, name: str, key: str) -> None:
        self.player.commit(name, key)

    @precondition(lambda self: self._any("active", 0))
    @rule(name=KEYS, number=st.integers(0, 5))
    def commit_active(self, name: str, number: int) -> None:
        self.player.commit(name, self._any("active", number) or "")

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        self.player.remove(key)

    @rule(key=KEYS, value=st.sampled_from(["", "1", "é"]))
    def update(self, key: str, value: str) -> None:
        self.player.update(key, {"label": value})

    @rule(key=KEYS, base=st.none() | KEYS)
    def changes(self, key: str, base: str | None) -> None:
        self.player.changes(key, base)

    @rule(name=KEYS, source=KEYS)
    def import_directory(self, name: str, source: str) -> None:
        self.player.import_directory(name, source)

    @rule(key=KEYS)
    def busy(self, key: str) -> None:
        self.player.busy(key)

    @rule(name=KEYS, number=st.integers(0, 5), base=st.none() | KEYS)
    def squash(self, name: str, number: int, base: str | None) -> None:
        self.player.squash(name, self._any("committed", number) or name, base)

    @precondition(lambda self: self._any("committed", 0))
    @rule(number=st.integers(0, 5))
    def round_trip(self, number: int) -> None:
        self.player.round_trip(self._any("committed", number) or "")

    @rule(key=KEYS)
    def usage(self, key: str) -> None:
        self.player.usage(key)

    @rule(key=KEYS)
    def mounts(self, key: str) -> None:
        self.player.mounts(key)

    @rule()
    def cleanup(self) -> None:
        self.player.cleanup()

    @rule()
    def reopen(self) -> None:
        self.player.reopen()

    @precondition(lambda self: self._any("active", 0))
    @rule(
        key=st.integers(0, 5),
        edits=st.lists(
            st.tuples(st.sampled_from(model.EDITS), PATHS, PATHS, st.integers(0, 20_000)), min_size=1, max_size=4
        ),
    )
    def edit(self, key: int, edits: list[tuple[str, str, str, int]]) -> None:
        for name, path, other, number in edits:
            self.player.edit(self._any("active", key) or "", name, path, other, number)

    @invariant()
    def agree(self) -> None:
        self.player.look()


def machine(factory: Factory) -> Callable[[], Machine]:
    return lambda: Machine(factory)


def test_machine(factory: Factory) -> None:
    run_state_machine_as_test(machine(factory), settings=SETTINGS)  # type: ignore[arg-type]
