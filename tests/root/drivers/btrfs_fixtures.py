"""Stores of the Btrfs driver on both of its grounds."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cowstore import mounting
from cowstore.drivers.btrfs import Btrfs
from tests.root.btrfs_ground import btrfs_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POOL_BYTES = 1 << 30


@pytest.fixture
def on_btrfs(tmp_path: Path) -> Iterator[Path]:
    """An empty directory of a Btrfs."""
    with btrfs_at(tmp_path) as point:
        made = point / "store"
        made.mkdir()
        yield made


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty directory of the file system of pytest's temporary one."""
    made = tmp_path / "store"
    made.mkdir()
    return made


@pytest.fixture(params=["directory", "pool"])
def driver(request: pytest.FixtureRequest) -> Iterator[Btrfs]:
    """The driver on each ground, with quota allowed; all is destroyed at the end."""
    where: Path = request.getfixturevalue({"directory": "on_btrfs", "pool": "elsewhere"}[request.param])
    made = Btrfs(str(where), Btrfs.Options(pool_size_bytes=POOL_BYTES, quota=True))
    yield made
    for id in made.held():
        made.remove(id)
    made.destroy()
    assert os.listdir(where) == []


@contextmanager
def tree(driver: Btrfs, id: int, *, read_only: bool = False) -> Iterator[str]:
    """Realise a snapshot for the length of the block; gives a path that reaches it."""
    with mounting.detached(driver.mounts(id, read_only)) as root:
        yield f"/proc/{os.getpid()}/fd/{root.fileno()}/."
    driver.release(id)


def make(driver: Btrfs, id: int, parent: int | None, files: dict[str, bytes]) -> None:
    """Make a sealed snapshot with some files."""
    driver.create(id, parent, None)
    with tree(driver, id) as root:
        for name, content in files.items():
            os.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
            with open(f"{root}/{name}", "wb") as file:
                file.write(content)
    driver.seal(id)
