"""A root to unpack into, in the middle of things that must not change."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.layers.archives import survey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; the test fails if anything around it changes, or a descriptor stays open."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "passwd").write_text("root:x:0:0")
    (outside / "folder").mkdir(mode=0o751)
    (outside / "folder" / "file").write_text("file")
    (outside / "link").symlink_to("secret")
    place = tmp_path / "a" / "root"
    place.mkdir(parents=True)
    before = survey(tmp_path, without=place)
    descriptors = os.listdir("/proc/self/fd")
    yield place
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    assert survey(tmp_path, without=place) == before
