"""The numbers of deleted subvolumes that wait to be cleaned, with a kernel that is played."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowstore._linux import btrfs
from cowstore.drivers.btrfs import cleaning, questions

if TYPE_CHECKING:
    import pytest


class Kernel:
    """Cleans what is dead with the syncs after the deletion, some at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
        self.dead: list[int] = []
        self.syncs = 0
        self.asked = 0
        self.at_once = at_once
        monkeypatch.setattr(questions, "deleted", self.deleted)
        monkeypatch.setattr(btrfs, "sync", self.sync)

    def deleted(self, fd: int) -> list[int]:
        self.asked += 1
        return list(self.dead)

    def sync(self, fd: int) -> None:
        self.syncs += 1
        del self.dead[: self.at_once]


def test_a_process_that_never_waits_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, 0)
    waiting = cleaning.Cleaning(5)
    for number in range(100_000):
        kernel.dead = [number]
        waiting.add([number])
    assert len(waiting._waiting) <= cleaning._MANY
    assert kernel.asked <= 100_000 / cleaning._MANY + 1


def test_a_kernel_that_does_not_clean_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, 0)
    waiting = cleaning.Cleaning(5)
    for number in range(50_000):
        kernel.dead.append(number)
        waiting.add([number])
    assert len(waiting._waiting) == 50_000
    assert kernel.asked <= 10


def test_what_is_waited_for_is_cleaned_and_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, 2)
    waiting = cleaning.Cleaning(5)
    waiting.add([1, 2, 3])
    kernel.dead = [1, 2, 3]
    assert waiting.wait(10) == []
    # The first begins, the second ends, the third frees.
    assert kernel.syncs == 3
    assert waiting.wait(10) == []
    assert kernel.syncs == 4


def test_others_are_waited_for_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, 0)
    waiting = cleaning.Cleaning(5)
    waiting.add([1])
    kernel.dead = [7]
    assert waiting.wait(0.01) == []
    assert waiting.wait(0.01, everybodys=True) == [7]


def test_what_is_left_is_told_and_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, 0)
    waiting = cleaning.Cleaning(5)
    waiting.add([1, 2])
    kernel.dead = [2]
    assert waiting.wait(0.01) == [2]
    assert waiting._waiting == {2}
    kernel.dead = []
    assert waiting.wait(0.01) == []
    assert waiting._waiting == set()
