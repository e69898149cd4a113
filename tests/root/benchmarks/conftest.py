"""Nothing of a run may outlive it, the warm launcher of this process included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cowstore.runtime.remote import server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _no_warm_launcher(nothing_left_behind: None) -> Iterator[None]:
    yield
    server.stop()
