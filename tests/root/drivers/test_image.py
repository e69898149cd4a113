"""Sizes by images."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import _programs
from cowstore._linux import loop
from cowstore._linux.capabilities import Cap, capget
from cowstore.drivers import _image
from cowstore.errors import InvalidArgument, OutOfSpace, Unsupported
from cowstore.results import FindingKind
from tests.root.drivers.test_quota import fill, own, synced

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cowstore.store import Store

MIB = 1 << 20
IMAGES = {"backing": "image"}


@pytest.fixture(params=["overlay", "copy"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with cowstore.open(tmp_path / "store", driver=request.param, options=IMAGES) as made:
        yield made


def image(store: Store, key: str) -> str:
    return f"{own(store, key)}/image"


def devices(store: Store) -> int:
    """Count the loop devices of the store's images."""
    files = {
        os.stat(image(store, found.key)).st_ino for found in store.walk() if os.path.exists(image(store, found.key))
    }
    count = 0
    for number, _name in loop.attached():
        node = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"))
        try:
            with open(f"/sys/block/{node}/loop/backing_file", encoding="utf-8") as file:
                count += os.stat(file.read().rstrip("\n")).st_ino in files
        except FileNotFoundError:
            continue
    return count


def need_to_grow() -> None:
    """Skip where the kernel does not let this root grow an ext4."""
    if not capget()[0] >> Cap.SYS_RESOURCE & 1:
        pytest.skip("elsewhere: this root has no CAP_SYS_RESOURCE; the kernel tier's has: `tox -e kernel`")


def test_write_fails_at_the_limit_and_hurts_nobody(store: Store) -> None:
    assert store.capabilities.size_limits
    store.prepare("small", size_bytes=16 * MIB)
    store.prepare("free")
    assert not os.path.exists(image(store, "free")), "a snapshot without a size is a directory"
    with store.mounted("small") as small, store.mounted("free") as free:
        fill(small / "half", 6)
        with pytest.raises(OSError) as caught:
            fill(small / "more", 32)
        assert caught.value.errno == errno.ENOSPC
        assert (small / "half").stat().st_size == 6 * MIB
        fill(free / "much", 64)
        (small / "more").unlink()
        fill(small / "again", 2)
        room = os.statvfs(small)
        assert room.f_blocks * room.f_frsize <= 16 * MIB
        assert devices(store) == 1
    assert devices(store) == 0
    assert store.check() == ()


def test_inodes_of_the_image_run_out(store: Store) -> None:
    """They are told from bytes, and from those of the file system that the store is on."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for number in range(8000):
            file.addfile(tarfile.TarInfo(f"f{number}"))
    archive.seek(0)
    store.prepare("small", size_bytes=16 * MIB)
    with store.mounted("small") as root:
        inodes = os.statvfs(root).f_files
    assert inodes < 8000
    with pytest.raises(OutOfSpace, match="inodes") as caught:
        store.apply_layer("small", archive)
    assert (caught.value.what, caught.value.total) == ("inodes", inodes)


def test_takes_what_is_written_and_gives_it_back(store: Store) -> None:
    """An image is a file of holes."""
    store.prepare("active", size_bytes=512 * MIB)
    before = os.stat(image(store, "active")).st_blocks * 512
    assert before < 16 * MIB
    with store.mounted("active") as root:
        fill(root / "file", 32)
        assert os.stat(image(store, "active")).st_blocks * 512 >= 32 * MIB
        (root / "file").unlink()
        synced(root)
    assert os.stat(image(store, "active")).st_blocks * 512 < before + 8 * MIB


def test_grows_while_mounted_and_never_shrinks(store: Store) -> None:
    need_to_grow()
    store.prepare("active", size_bytes=16 * MIB)
    with store.mounted("active") as root:
        store.set_size("active", 64 * MIB)
        fill(root / "file", 32)
        with pytest.raises(Unsupported, match=r"smaller \(67108864 bytes now, 16777216 wanted\)"):
            store.set_size("active", 16 * MIB)
        assert os.stat(image(store, "active")).st_size == 64 * MIB
    store.set_size("active", 128 * MIB)
    with store.mounted("active") as root:
        assert (root / "file").stat().st_size == 32 * MIB
        fill(root / "more", 64)


def test_grows_only_where_the_kernel_lets_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAP_SYS_RESOURCE it does not: refused with the reason, and the image is as it was."""

    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, "refused")

    store.prepare("active", size_bytes=16 * MIB)
    monkeypatch.setattr(_image, "_grow", refuse)
    with pytest.raises(Unsupported, match="CAP_SYS_RESOURCE"):
        store.set_size("active", 64 * MIB)
    assert os.stat(image(store, "active")).st_size == 16 * MIB
    with store.mounted("active") as root:
        fill(root / "file", 4)
    assert store.check() == ()


def test_refused_before_anything_is_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir(f"{store.root}/{store.driver_name}")
    with pytest.raises(InvalidArgument, match="1048576 bytes at least"):
        store.prepare("tiny", size_bytes=MIB - 1)
    store.prepare("directory")
    with pytest.raises(Unsupported, match="made without a size, and is no image"):
        store.set_size("directory", 64 * MIB)
    store.remove("directory", wait=True)
    monkeypatch.setattr(_programs, "find", lambda _name: None)
    with pytest.raises(Unsupported, match="e2fsprogs"):
        store.prepare("small", size_bytes=16 * MIB)
    assert list(store.walk()) == []
    assert sorted(set(os.listdir(f"{store.root}/{store.driver_name}")) - {"images"}) == sorted(before)


def test_layers_of_both_sorts(store: Store) -> None:
    """Directories over images over directories; opened without the option, what is there stays what it is."""
    parent = None
    for number, size_bytes in enumerate((None, 32 * MIB, None, 64 * MIB, 48 * MIB)):
        store.prepare("active", parent, size_bytes=size_bytes)
        with store.mounted("active") as root:
            (root / f"file-{number}").write_text(str(number))
            if number:
                (root / f"file-{number - 1}").unlink()
        parent = f"layer-{number}"
        store.commit(parent, "active")
    assert [change.path for change in store.changes("layer-4")] == ["file-3", "file-4"]
    with cowstore.open(store.root) as plain, plain.mounted("layer-4") as root:
        assert os.listdir(root) == ["file-4"]
        plain.prepare("child", "layer-4")
        with plain.mounted("child") as child:
            (child / "file-4").write_text("changed")
    with cowstore.open(store.root, read_only=True) as looking, looking.mounted("layer-4") as root:
        assert (root / "file-4").read_text() == "4"
    assert store.check() == ()
    assert devices(store) == 0


def test_two_stores_share_one_device(store: Store) -> None:
    """Two devices of one file would be two file systems that write over each other."""
    store.prepare("active", size_bytes=32 * MIB)
    store.commit("layer", "active")
    store.prepare("child", "layer", size_bytes=32 * MIB)
    with cowstore.open(store.root) as other, store.mounted("layer") as one, other.mounted("layer") as two:
        assert os.listdir(one) == os.listdir(two) == []
        with store.mounted("child"):
            assert devices(store) == 2


def test_what_check_finds_of_images(store: Store) -> None:
    """Writable though committed: mended. Cut in half, or gone: named, and the others go on."""
    for number in range(3):
        store.prepare("active", size_bytes=16 * MIB)
        store.commit(f"layer-{number}", "active")
    os.chmod(image(store, "layer-0"), 0o600)
    os.truncate(image(store, "layer-1"), 4096)
    os.unlink(image(store, "layer-2"))
    found = {finding.key: finding.kind for finding in store.check()}
    assert found == {
        "layer-0": FindingKind.NOT_SEALED,
        "layer-1": FindingKind.NOT_MOUNTABLE,
        "layer-2": FindingKind.ROW_WITHOUT_DATA,
    }
    assert {finding.key for finding in store.check(repair=True) if finding.repaired} == {"layer-0"}
    assert os.stat(image(store, "layer-0")).st_mode & 0o777 == 0o400
    with store.mounted("layer-0"):
        pass
    for number in range(3):
        store.remove(f"layer-{number}")
    assert store.check() == ()


def test_nobody_but_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert _image.why_not() == "only root may attach images"
