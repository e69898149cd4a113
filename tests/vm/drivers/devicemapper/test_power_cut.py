"""The power goes at any moment: what `commit` had returned for is whole, and nothing half-made is seen."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import tempfile
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore._linux import dm
from cowstore._linux.mount import MountFlag, mount, umount2
from cowstore.drivers.devicemapper.options import MIB
from tests.vm.drivers.devicemapper.conftest import SMALL
from tests.vm.drivers.devicemapper.recorder import (
    SECTOR,
    Cut,
    Recorder,
    Write,
    attached,
    copy_sparse,
    mapped,
    node,
    number,
    replay,
    torn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OPTIONS = {**SMALL, "data_bytes": 64 * MIB, "data_limit_bytes": 64 * MIB, "base_bytes": 32 * MIB}
DISK = 192 * MIB
EVERY = bool(os.environ.get("COWSTORE_TEST_EVERY_CUT"))
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory: the disks of this test are written to and copied a great deal."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


class Files:
    """The default: the store on a file system, the pool's files in it."""

    options: Mapping[str, object] = OPTIONS

    @contextmanager
    def on(self, device: str, _links: Path) -> Iterator[str]:
        """Give the device of the store's file system."""
        yield device


class Slices(Files):
    """The store on one file system, the pool's data and metadata on devices of their own, all on the one disk."""

    def __init__(self) -> None:
        self.options: Mapping[str, object] = OPTIONS

    @contextmanager
    def on(self, device: str, links: Path) -> Iterator[str]:
        begin = 0
        self.options = {**OPTIONS}
        with ExitStack() as stack:
            for name, size in (("home", 64 * MIB), ("data", 64 * MIB), ("metadata", 4 * MIB)):
                target = dm.Target(0, size // SECTOR, "linear", f"{number(device)} {begin // SECTOR}")
                info = stack.enter_context(mapped(f"slice-{name}", [target]))
                begin += size
                link = links / name
                link.unlink(missing_ok=True)
                link.symlink_to(node(info))
                if name != "home":
                    self.options = {**self.options, f"{name}_device": str(link)}
            yield str(links / "home")


@contextmanager
def booted(layout: Files, device: str, links: Path, *, fresh: bool = False) -> Iterator[Path]:
    """The file system mounted after a boot of its own, so that nobody of before can live."""
    place = links / "place"
    place.mkdir(exist_ok=True)
    boot = links / "boot"
    boot.write_text(f"{uuid.uuid4()}\n")
    with layout.on(device, links) as home:
        if fresh:
            subprocess.run(["mke2fs", "-q", "-t", "ext4", "-J", "size=4", home], check=True)
        with ExitStack() as stack:
            for source, target, kind, flags in (
                (home, str(place), "ext4", MountFlag.NONE),
                (str(boot), BOOT_ID, "", MountFlag.BIND),
            ):
                mount(source, target, kind, flags)
                stack.callback(umount2, target)
            yield place


def write(root: Path, name: str) -> dict[str, str]:
    """Write some files, one of them with an fsync; returns the hashes of all that are there."""
    for number_ in range(6):
        (root / f"{name}-{number_}").write_bytes(name.encode() * (1 + 3000 * number_))
    with open(root / f"{name}-synced", "wb") as file:
        file.write(name.encode() * 40_000)
        file.flush()
        os.fsync(file.fileno())
    return hashes(root)


def hashes(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}


def script(place: Path, options: Mapping[str, object], mark: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """Prepare, write, commit, remove; returns what is in each layer."""
    layers: dict[str, dict[str, str]] = {}

    def layer(name: str, parent: str | None) -> None:
        key = f"active-{name}"
        store.prepare(key, parent=parent)
        with store.mounted(key) as root:
            layers[name] = write(root, name)
        mark(f"begin:{name}")
        store.commit(name, key)
        mark(f"done:{name}")

    with cowstore.open(place / "store", driver="devicemapper", options=options) as store:
        layer("one", None)
        layer("two", "one")
        store.prepare("thrown", parent="two")
        with store.mounted("thrown") as root:
            write(root, "thrown")
        store.remove("thrown")
        mark("gone:thrown")
        store.prepare("left", parent="one")
        mark("doomed:two")
        store.remove("two")
        mark("gone:two")
    return layers


def look(
    place: Path,
    options: Mapping[str, object],
    layers: dict[str, dict[str, str]],
    said: frozenset[str],
    *,
    thorough: bool,
) -> None:
    """Open what the cut left; if *thorough*, also go on using it."""
    with cowstore.open(place / "store", driver="devicemapper", options=options) as store:
        assert store.check() == ()
        kinds = {snapshot.key: snapshot.kind for snapshot in store.walk()}
        for name, wanted in layers.items():
            gone = f"doomed:{name}" in said
            if f"done:{name}" in said and not gone:
                assert kinds[name] == cowstore.Kind.COMMITTED
            if kinds.get(name) == cowstore.Kind.COMMITTED:
                assert f"gone:{name}" not in said
                assert f"begin:{name}" in said
                with store.mounted(name) as root:
                    assert hashes(root) == wanted, name
        assert ("thrown" not in kinds) or "gone:thrown" not in said
        for key, kind in kinds.items():
            if kind == cowstore.Kind.ACTIVE:
                with store.mounted(key) as root:
                    hashes(root)
        if not thorough:
            return
        store.prepare("after")
        with store.mounted("after") as root:
            wanted = write(root, "after")
        store.commit("later", "after")
        with store.mounted("later") as root:
            assert hashes(root) == wanted
        store.remove("later")
        assert store.check() == ()


KINDS = [("files", "flushed"), ("devices", "torn"), ("files", "torn"), ("devices", "flushed")]
LAYOUTS: dict[str, type[Files]] = {"files": Files, "devices": Slices}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("where", "kind"), KINDS if EVERY else KINDS[:2])
def test_cut_at_every_flush(memory: Path, where: str, kind: str) -> None:
    """DM-04: what was flushed is there, of what was not some; the store opens, is clean, holds all that was committed.

    Of the cuts while the store and its first layer are made every tenth is played back, of the torn ones after that
    every fifth; all of them, and both kinds of cut on both layouts, with ``COWSTORE_TEST_EVERY_CUT=yes``.
    """
    layout = LAYOUTS[where]()
    recorder = Recorder(memory, DISK)
    links, image = memory / "links", memory / "image"
    links.mkdir()
    with attached(recorder.disk) as device, booted(layout, device, links, fresh=True):
        pass
    copy_sparse(recorder.disk, image)
    with recorder.recording() as device, booted(layout, device, links) as place:
        layers = script(place, layout.options, recorder.mark)
    chance = random.Random(4)
    failures, tried = [], 0
    for cut in recorder.cuts():
        replay(image, cut.before)
        if not EVERY and cut.number % (10 if "done:one" not in cut.said else 5 if kind == "torn" else 1):
            continue
        tried += 1
        try:
            after_the_cut(image, layout, links, layers, cut, torn(cut, chance) if kind == "torn" else [])
        except Exception as error:
            failures.append(f"cut {cut.number} after {sorted(cut.said)}: {error!r}")
    print(f"{where}, {kind}: {tried} cuts")
    assert not failures, "\n".join(failures)
    assert tried > 15


def after_the_cut(
    image: Path, layout: Files, links: Path, layers: dict[str, dict[str, str]], cut: Cut, also: list[Write]
) -> None:
    disk = image.with_name("cut")
    copy_sparse(image, disk)
    replay(disk, also)
    with attached(disk) as device, booted(layout, device, links) as place:
        look(place, layout.options, layers, cut.said, thorough=cut.number % 6 == 0)
