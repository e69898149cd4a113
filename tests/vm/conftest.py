"""Tests that need a kernel with device-mapper: run in a guest, where nothing of them may be skipped.

On another machine they say where they are proven; with ``COWSTORE_DEVICE_MAPPER=yes`` they run on its own kernel.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.leakcheck import nothing_left_behind

__all__ = ["nothing_left_behind"]

HERE = Path(__file__).parent
MAY_RUN = bool(os.environ.get("COWSTORE_VM") or os.environ.get("COWSTORE_DEVICE_MAPPER"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MAY_RUN:
        return
    skip = pytest.mark.skip(reason="elsewhere: the kernel tier proves device-mapper: `tox -e kernel`")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)
