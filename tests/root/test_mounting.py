"""Mount values realised, by the new calls and, forced, the way older kernels need."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from cowstore import mounting
from cowstore._linux.mount import MountFlag as Flag
from cowstore._linux.mount import mount, umount2
from cowstore._linux.procfs import mountinfo
from cowstore.model import STACKED, Mount, MountFlag, stacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cowstore._linux.fd import Descriptor


@pytest.fixture(params=["as the kernel can", "as before 6.15", "as before 6.7"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pretend that the kernel is older."""
    if request.param != "as the kernel can":
        monkeypatch.setattr(mounting, "copies_detached", False)
    if request.param == "as before 6.7":
        monkeypatch.setattr(mounting, "takes_single_layers", False)
    return str(request.param)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs: wherever the tests' own directory lies, overlay can work here."""
    path = tmp_path / "ground"
    path.mkdir()
    mount("tmpfs", str(path), "tmpfs", Flag.NONE, "mode=755")
    yield path
    umount2(str(path))


def layer(path: Path, **files: str) -> bytes:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return os.fsencode(path)


def overlay(lowers: list[bytes], upper: Path | None = None) -> Mount:
    options = [(b"index", b"off"), *[(b"lowerdir+", lower) for lower in lowers]]
    if upper is not None:
        for name in ("fs", "work"):
            (upper / name).mkdir(parents=True, exist_ok=True)
        options += [(b"upperdir", os.fsencode(upper / "fs")), (b"workdir", os.fsencode(upper / "work"))]
    return Mount(type="overlay", source=b"overlay", options=tuple(options))


def names(tree: Descriptor) -> list[str]:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=tree.fileno())
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def text(tree: Descriptor, name: str) -> str:
    fd = os.open(name, os.O_RDONLY, dir_fd=tree.fileno())
    try:
        return os.read(fd, 100).decode()
    finally:
        os.close(fd)


def test_nothing_is_in_the_mount_table(ground: Path, way: str) -> None:
    before = len(mountinfo())
    steps = (overlay([layer(ground / "lower", a="1")], ground / "up"),)
    with mounting.detached(steps) as tree:
        assert names(tree) == ["a"]
        os.mkdir("made", dir_fd=tree.fileno())
        assert len(mountinfo()) == before
    assert os.listdir(ground / "up/fs") == ["made"]
    assert threading.active_count() == 1


@pytest.mark.parametrize("name", [b"a:b,c", b"a\\b\\:", b"lowerdir=x,upperdir=y", b" \t\n'\"", b"\xff\xfe", b"x" * 255])
def test_any_byte_of_a_path(ground: Path, way: str, name: bytes) -> None:
    """OV-02, OV-03: separators, escapes, and more than fsconfig takes as one value."""
    place = ground / os.fsdecode(name)
    steps = (overlay([layer(place / "one", a="1"), layer(place / "two", b="2")], place / "up"),)
    with mounting.detached(steps) as tree:
        assert names(tree) == ["a", "b"]


@pytest.mark.parametrize("count", [12, 120, 500])
def test_many_layers(ground: Path, way: str, count: int) -> None:
    """OV-01, OV-02: below a path of 120 characters."""
    place = ground / ("p" * 120)
    lowers = [layer(place / str(number), **{f"f{number}": str(number)}) for number in range(count)]
    with mounting.detached((overlay(lowers, place / "up"),)) as tree:
        assert len(names(tree)) == count
        assert text(tree, f"f{count - 1}") == str(count - 1)


def test_an_overlay_over_an_overlay(ground: Path, way: str) -> None:
    """A layer that lies below another on one file system needs an overlay between."""
    inner = layer(ground / "lower/inner", a="upper")
    outer = os.fsencode(ground / "lower")
    with pytest.raises(OSError, match="Too many levels") as caught:
        mounting.detached((overlay([inner, outer], ground / "up"),))
    assert caught.value.errno == errno.ELOOP
    steps = (
        Mount(type="tmpfs", source=b"tmpfs"),
        overlay([outer, STACKED]),
        overlay([inner, STACKED], ground / "up"),
    )
    with mounting.detached(steps) as tree:
        assert names(tree) == ["a", "inner"]


def test_directories_of_several_steps(ground: Path, way: str) -> None:
    """Layers can lie in what any of the earlier steps made."""
    for name in ("one", "two"):
        layer(ground / name / "fs", **{name: name})
    (ground / "own/fs").mkdir(parents=True)
    (ground / "own/work").mkdir()
    binds = tuple(Mount(type="bind", source=os.fsencode(ground / name)) for name in ("own", "one", "two"))
    options = (
        (b"lowerdir+", stacked(1, b"fs")), (b"lowerdir+", stacked(2, b"fs")),
        (b"upperdir", stacked(0, b"fs")), (b"workdir", stacked(0, b"work")),
    )  # fmt: skip
    with mounting.detached((*binds, Mount(type="overlay", source=b"overlay", options=options))) as tree:
        assert names(tree) == ["one", "two"]
        os.mkdir("new", dir_fd=tree.fileno())
    assert os.listdir(ground / "own/fs") == ["new"]


def test_binds(ground: Path, way: str) -> None:
    source = layer(ground / "source", a="1")
    with mounting.detached((Mount(type="bind", source=source, flags=MountFlag.RDONLY | MountFlag.NOEXEC),)) as tree:
        with pytest.raises(OSError, match="Read-only") as caught:
            os.mkdir("b", dir_fd=tree.fileno())
        assert caught.value.errno == errno.EROFS
        flags = os.statvfs(f"/proc/self/fd/{tree.fileno()}").f_flag
        assert flags & os.ST_NOEXEC
        assert not flags & os.ST_NOSUID
    (ground / "source/b").mkdir()


def test_a_directory_of_what_is_mounted(ground: Path, way: str) -> None:
    layer(ground / "source/rootfs", a="1")
    with mounting.detached((Mount(type="bind", source=os.fsencode(ground / "source"), subdir=b"rootfs"),)) as tree:
        assert names(tree) == ["a"]


def test_remount(ground: Path) -> None:
    steps = (
        Mount(type="tmpfs", source=b"tmpfs"),
        Mount(type="tmpfs", source=b"", options=((b"size", b"4k"),), flags=MountFlag.REMOUNT),
    )
    with mounting.detached(steps) as tree:
        assert os.statvfs(f"/proc/self/fd/{tree.fileno()}").f_blocks == 1


def test_the_kernels_words(ground: Path, way: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        mounting.detached((overlay([os.fsencode(ground / "nothing")], ground / "up"),))
    assert any("2)" in note for note in caught.value.__notes__)
    with pytest.raises(OSError, match=r"(?i)invalid|known") as unknown:
        mounting.detached((Mount(type="tmpfs", source=b"t", options=((b"no-such-option", b"1"),)),))
    assert "no-such-option" in "".join(unknown.value.__notes__)


def test_attach_and_detach(ground: Path, way: str) -> None:
    target = ground / "target"
    target.mkdir()
    mounting.attach((overlay([layer(ground / "lower", a="1")], ground / "up"),), str(target))
    assert os.listdir(target) == ["a"]
    here = [entry for entry in mountinfo() if entry.mount_point == os.fsencode(target)]
    assert [entry.optional for entry in here] == [()]
    assert mounting.detach(str(target))
    assert mounting.detach(str(target))
    assert os.listdir(target) == []


def test_a_tree_in_use_is_taken_down_all_the_same(ground: Path) -> None:
    target = ground / "target"
    target.mkdir()
    mounting.attach((overlay([layer(ground / "lower", a="1")], ground / "up"),), str(target))
    with (target / "a").open() as file:
        assert not mounting.detach(str(target), patience_seconds=0.02)
        assert os.listdir(target) == []
        assert file.read() == "1"


def test_nobody_else_sees_it(ground: Path) -> None:
    """OV-20: mounts made at a place that others share appear there too; ours do not, and none of the pad stays."""
    shared, peer = ground / "shared", ground / "peer"
    for path in (shared, peer):
        path.mkdir()
    mount("tmpfs", str(shared), "tmpfs", Flag.NONE, "mode=755")
    mount(None, str(shared), None, Flag.SHARED)
    mount(str(shared), str(peer), None, Flag.BIND)
    try:
        (shared / "mnt/target").mkdir(parents=True)
        target = str(shared / "mnt/target")
        steps = (overlay([layer(ground / "lower", a="1")], ground / "up"),)
        for _ in range(2):
            mounting.attach(steps, target)
            assert os.listdir(target) == ["a"]
            assert os.listdir(peer / "mnt/target") == []
            overlays = [
                entry for entry in mountinfo() if entry.fs_type == b"overlay" and b"target" in entry.mount_point
            ]
            assert [(entry.mount_point, entry.optional) for entry in overlays] == [(os.fsencode(target), ())]
            assert mounting.detach(target)
            assert not [entry for entry in mountinfo() if b"target" in entry.mount_point]
        with pytest.raises(FileNotFoundError):
            mounting.attach((overlay([b"/nothing"]),), target)
        assert not [entry for entry in mountinfo() if b"target" in entry.mount_point]
    finally:
        umount2(str(peer))
        umount2(str(shared))


def test_a_mount_of_the_callers_below_ours_stays(ground: Path) -> None:
    target = ground / "target"
    target.mkdir()
    mount("tmpfs", str(target), "tmpfs", Flag.NONE, "mode=700")
    (target / "theirs").touch()
    try:
        mounting.attach((overlay([layer(ground / "lower", a="1")], ground / "up"),), str(target))
        assert os.listdir(target) == ["a"]
        assert mounting.detach(str(target))
        assert os.listdir(target) == ["theirs"]
    finally:
        umount2(str(target))


def test_threads_do_not_disturb_each_other(ground: Path, way: str) -> None:
    lower = layer(ground / "lower", a="1")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                with mounting.detached((overlay([lower], ground / f"up{number}"),)) as tree:
                    assert names(tree) == ["a"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
