"""The leak check of the tiers that mount things: every test leaves the machine as it found it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cowstore.testing import leaks

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compare mounts, loop and device-mapper devices, cgroups, descriptors and processes before and after the test.

    Mounts and devices are looked for below pytest's own temporary directory, so that other users of the machine do not
    disturb; whatever a test makes elsewhere, it watches itself.
    """
    directories = [str(tmp_path_factory.getbasetemp())]
    before = leaks.held(directories)
    yield
    leaks.assert_nothing_since(before, directories)
