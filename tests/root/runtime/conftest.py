"""A store in which this machine's own root is the snapshot ``host``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.runtime.remote import server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[cowstore.Store]:
    with cowstore.open(tmp_path / "store", driver="overlay") as opened:
        opened.adopt("host", "/")
        yield opened
    # The warm launcher stays for the life of the process; a test's process is the whole session's.
    server.stop()
