"""Results are published: they say what they were taken on, and nothing of whose machine it was."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cowstore.bench import machine

if TYPE_CHECKING:
    import pytest


def test_paths_below_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert machine.below_home("/home/somebody/bin/python") == "~/bin/python"
    assert machine.below_home("/home/somebodyelse/bin/python") == "/home/somebodyelse/bin/python"
    assert machine.below_home("/usr/bin/python3.11") == "/usr/bin/python3.11"
    monkeypatch.setenv("HOME", "/")
    assert machine.below_home("/usr/bin/python3.11") == "/usr/bin/python3.11"


def test_the_facts_name_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr(sys, "executable", "/home/somebody/bin/python")
    assert "somebody" not in str(machine.facts("/"))
