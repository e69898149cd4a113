"""The conformance suite over every driver that this machine can run; which it cannot is said out loud."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from cowstore.testing import Factory
from tests.conformance import ground
from tests.leakcheck import nothing_left_behind

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["driver", "factory", "nothing_left_behind"]


def pytest_collection_finish() -> None:
    """Leave what is there now out of later collections: each case ends with one, and a child copies what it touches."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    return {}


@pytest.fixture(params=ground.drivers())
def driver(
    request: pytest.FixtureRequest, _verdicts: dict[str, str | None], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Each driver in turn; one that does not work here is skipped with the reason."""
    name: str = request.param
    if name not in _verdicts:
        _verdicts[name] = ground.verdict(name, str(tmp_path_factory.mktemp(f"probe-{name}")))
    reason = _verdicts[name]
    if reason is not None:
        pytest.skip(reason)
    return name


@pytest.fixture
def factory(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    """Makes stores of the driver in a directory that is short, on the file system of pytest's temporary one."""
    directory = str(tmp_path_factory.mktemp("suite"))
    copies = driver in ground.COPIES
    with Factory(driver, options=ground.options(driver), directory=directory, copies=copies) as made:
        yield made
