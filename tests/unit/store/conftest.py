"""Stores of plain directories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import drivers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _plain_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drivers.BUILT_IN, "plain", ("tests.unit.store.plain", "Plain"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def opened(root: Path) -> Iterator[Callable[..., cowstore.Store]]:
    """Open the store as often as asked, and close all at the end."""
    made: list[cowstore.Store] = []

    def opener(**arguments: object) -> cowstore.Store:
        made.append(cowstore.open(root, **{"driver": "plain", **arguments}))  # type: ignore[arg-type]
        return made[-1]

    yield opener
    for store in made:
        store.close()


@pytest.fixture
def store(opened: Callable[..., cowstore.Store]) -> cowstore.Store:
    return opened()
