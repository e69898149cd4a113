from __future__ import annotations

import errno
import itertools
import os
import resource
import stat
from typing import TYPE_CHECKING

import pytest

from cowstore._linux.fd import Descriptor
from cowstore.errors import InvalidLayer
from cowstore.layers import tree as trees
from cowstore.layers.blocks import Blocks
from cowstore.layers.extract import Devices, extract
from cowstore.layers.limits import Limits
from tests.unit.layers.archives import (
    END,
    GNU,
    block,
    directory,
    file,
    hard_link,
    long_name,
    look,
    pad,
    pax,
    survey,
    symlink,
    unpack,
)

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o000])
def umask(request: pytest.FixtureRequest) -> object:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def test_what_comes_back(root: Path) -> None:
    done = unpack(
        root,
        directory(b"d/"),
        file(b"d/f", b"x" * 700),
        symlink(b"s", b"d/f"),
        hard_link(b"h", b"d/f"),
        block(b"p", b"6"),
        block(b"c", b"3", major=1, minor=3),
    )
    assert (done.entries, done.size_bytes) == (6, 700)
    assert done.skipped.counts() == {"devices": 1}


def test_root_by_descriptor(root: Path) -> None:
    import io

    with Descriptor(os.open(root, os.O_RDONLY)) as fd:
        extract(io.BytesIO(file(b"f") + END), fd)
    assert os.listdir(root) == ["f"]


def test_modes_and_times(root: Path, umask: int) -> None:
    """Every mode and nanosecond, whatever the umask."""
    parts = []
    for number, bits in enumerate((0o000, 0o644, 0o4755, 0o2755, 0o1777, 0o7777, 0o222)):
        parts.append(pax([(b"mtime", b"-%d.000000001" % number)]) + file(b"f%d" % number, mode=bits))
        parts.append(pax([(b"mtime", b"%d.5" % number)]) + directory(b"d%d" % number, bits))
        parts.append(file(b"d%d/in" % number))
    unpack(root, *parts)
    for number, bits in enumerate((0o000, 0o644, 0o4755, 0o2755, 0o1777, 0o7777, 0o222)):
        assert mode(root / f"f{number}") == bits
        assert (root / f"f{number}").stat().st_mtime_ns == -(number * 10**9 + 1)
        assert mode(root / f"d{number}") == bits
        assert (root / f"d{number}").stat().st_mtime_ns == number * 10**9 + 500_000_000
        (root / f"d{number}").chmod(0o700)


def test_implied_directories(root: Path, umask: int) -> None:
    """TA-11: ImpliedDirectoryPermissions, UntarParentPathPermissions."""
    (root / "etc").mkdir()
    (root / "etc").chmod(0o751)
    os.utime(root / "etc", ns=(3, 3))
    os.utime(root, ns=(4, 4))
    unpack(root, file(b"etc/new/x"), file(b"other/deep/er/x"))
    assert (mode(root / "etc"), (root / "etc").stat().st_mtime_ns) == (0o751, 3)
    assert root.stat().st_mtime_ns == 4
    for name in ("etc/new", "other", "other/deep", "other/deep/er"):
        assert (mode(root / name), (root / name).stat().st_mtime_ns) == (0o755, 0)


def test_directory_named_after_what_is_in_it(root: Path) -> None:
    unpack(root, file(b"d/e/f"), directory(b"d/e", 0o711, mtime=5), directory(b"d", 0o700, mtime=6))
    assert (mode(root / "d/e"), (root / "d/e").stat().st_mtime) == (0o711, 5)
    assert (mode(root / "d"), (root / "d").stat().st_mtime) == (0o700, 6)


def test_read_only_directories(root: Path) -> None:
    """TA-33: 0555 and 0500 do not stand in the way; the last entry counts; times survive what is made inside."""
    unpack(
        root,
        directory(b"d", 0o555, mtime=1),
        directory(b"d/e", 0o500, mtime=2),
        file(b"d/e/f"),
        directory(b"d/n", 0o000, mtime=4),
        file(b"d/n/f"),
        directory(b"d", 0o711, mtime=3),
    )
    assert (mode(root / "d"), (root / "d").stat().st_mtime) == (0o711, 3)
    assert (mode(root / "d/e"), (root / "d/e").stat().st_mtime) == (0o500, 2)
    assert (mode(root / "d/n"), (root / "d/n").stat().st_mtime) == (0o000, 4)
    (root / "d/n").chmod(0o700)


def test_root_directory(root: Path) -> None:
    """OV-17: an entry for the root sets its mode and times, wherever it stands."""
    unpack(root, directory(b"./", 0o2751, mtime=9), file(b"./f"), file(b"g/h"))
    assert (mode(root), root.stat().st_mtime) == (0o2751, 9)
    unpack(root, file(b"x"), directory(b".", 0o700, mtime=10))
    assert (mode(root), root.stat().st_mtime) == (0o700, 10)


@pytest.mark.parametrize("flag", [b"0", b"1", b"2", b"6"])
def test_root_is_a_directory(root: Path, flag: bytes) -> None:
    with pytest.raises(InvalidLayer, match="root"):
        unpack(root, block(b"./x/..", flag, link=b"x"))


KINDS = {
    "file": file(b"n", b"new"),
    "directory": directory(b"n", 0o711) + file(b"n/new"),
    "symlink": symlink(b"n", b"t"),
    "fifo": block(b"n", b"6", mode=0o640),
}


@pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
@pytest.mark.parametrize("one_layer", [False, True])
def test_type_changes(root: Path, first: str, second: str, one_layer: bool) -> None:
    """TA-13: the later type wins, nothing of the former is left, and a link's target is not touched."""
    lower = directory(b"t", 0o750, mtime=5) + file(b"t/keep", b"keep") + KINDS[first]
    if first == "directory":
        lower += file(b"n/deep/old", b"old")
    if one_layer:
        unpack(root, lower, KINDS[second])
    else:
        unpack(root, lower)
        unpack(root, KINDS[second])
    found = look(root / "n")
    check = {"file": stat.S_ISREG, "directory": stat.S_ISDIR, "symlink": stat.S_ISLNK, "fifo": stat.S_ISFIFO}[second]
    assert check(found.mode)
    if second == "directory":
        merged = ["deep", "new"] if first == "directory" else ["new"]
        assert sorted(os.listdir(root / "n")) == merged
        assert stat.S_IMODE(found.mode) == 0o711
    assert os.listdir(root / "t") == ["keep"]
    assert (mode(root / "t"), (root / "t").stat().st_mtime) == (0o750, 5)


def test_directory_over_symlink(root: Path) -> None:
    """TA-14: the directory replaces the link; what the link led to keeps content, mode and time."""
    unpack(root, directory(b"usr/bin", 0o755, mtime=5), file(b"usr/bin/sh", b"sh"), symlink(b"bin", b"usr/bin"))
    unpack(root, directory(b"bin/", 0o700), file(b"bin/tool", b"tool"))
    assert not (root / "bin").is_symlink()
    assert (mode(root / "bin"), os.listdir(root / "bin")) == (0o700, ["tool"])
    assert os.listdir(root / "usr/bin") == ["sh"]
    assert (mode(root / "usr/bin"), (root / "usr/bin").stat().st_mtime) == (0o755, 5)


def test_file_through_a_symlinked_directory(root: Path) -> None:
    """TA-14's other half: without an entry for it the link stays, and the file goes where it leads."""
    unpack(root, file(b"usr/bin/sh", b"sh"), symlink(b"bin", b"usr/bin"))
    unpack(root, file(b"bin/tool", b"tool"), file(b"bin/tool2", b"tool"))
    assert (root / "bin").is_symlink()
    assert sorted(os.listdir(root / "usr/bin")) == ["sh", "tool", "tool2"]


def test_file_as_a_parent(root: Path) -> None:
    with pytest.raises(InvalidLayer, match="not a directory"):
        unpack(root, file(b"f", b"1"), file(b"f/g"))
    unpack(root, file(b"f", b"1"), symlink(b"s", b"f"))
    with pytest.raises(InvalidLayer, match="not a directory"):
        unpack(root, file(b"s/g"))
    assert (root / "f").read_bytes() == b"1"


def test_the_same_path_twice(root: Path) -> None:
    """TA-36: the last wins."""
    unpack(
        root,
        file(b"f", b"1"),
        file(b"f", b"2", mode=0o600),
        directory(b"d", 0o700),
        directory(b"./d/", 0o755),
        file(b"./x", b"1"),
        file(b"x", b"2"),
        symlink(b"s", b"f"),
        file(b"s", b"3"),
    )
    assert (root / "f").read_bytes() == b"2"
    assert mode(root / "f") == 0o600
    assert mode(root / "d") == 0o755
    assert (root / "x").read_bytes() == b"2"
    assert (root / "s").read_bytes() == b"3"
    assert not (root / "s").is_symlink()


def test_hard_links(root: Path) -> None:
    """TarWithHardLink, HardLinkOrder, TA-08, TA-39."""
    done = unpack(
        root, file(b"a", b"x" * 1000), hard_link(b"b", b"a"), hard_link(b"d/c", b"./a"), hard_link(b"e", b"/d/c")
    )
    assert done.size_bytes == 1000
    assert len({(root / name).stat().st_ino for name in ("a", "b", "d/c", "e")}) == 1
    unpack(root, hard_link(b"f", b"b"))
    assert (root / "f").stat().st_nlink == 5


def test_hard_link_before_its_target(root: Path) -> None:
    """TA-07: a clear error."""
    with pytest.raises(InvalidLayer, match="behind its target") as caught:
        unpack(root, hard_link(b"b", b"a"), file(b"a"))
    assert caught.value.entry == "b"


def test_hard_link_over_things(root: Path) -> None:
    unpack(root, file(b"a", b"1"), file(b"b", b"2"), hard_link(b"b", b"a"), symlink(b"s", b"a"), hard_link(b"s", b"a"))
    assert (root / "a").stat().st_nlink == 3
    unpack(root, hard_link(b"b", b"a"), hard_link(b"a", b"a"), hard_link(b"a", b"b"))
    assert (root / "a").stat().st_nlink == 3
    unpack(root, directory(b"d"), file(b"d/f", b"in d"), hard_link(b"x", b"d/f"), hard_link(b"d", b"x"))
    assert (root / "d").read_bytes() == b"in d"


@pytest.mark.parametrize("target", [b"nothing", b"no/thing", b"", b"/", b"d", b"d/..", b"d/../d", b"f/x"])
def test_impossible_hard_links(root: Path, target: bytes) -> None:
    with pytest.raises(InvalidLayer):
        unpack(root, directory(b"d"), file(b"f"), hard_link(b"h", target))


def test_hard_link_in_place_of_its_targets_directory(root: Path) -> None:
    with pytest.raises(InvalidLayer, match="not there"):
        unpack(root, file(b"d/f"), hard_link(b"d", b"d/f"))


def test_hard_link_whose_target_was_open_through_a_removed_link(root: Path) -> None:
    """The target's directory is closed while the old thing at the link's name is removed."""
    unpack(root, file(b"t/f", b"1"), directory(b"old"), file(b"old/x"), hard_link(b"old", b"t/f"), file(b"t/g"))
    assert (root / "old").read_bytes() == b"1"
    assert sorted(os.listdir(root / "t")) == ["f", "g"]


def test_symlink_to_nothing_or_too_long(root: Path) -> None:
    with pytest.raises(InvalidLayer, match="nothing"):
        unpack(root, symlink(b"s", b""))
    with pytest.raises(InvalidLayer):
        unpack(root, long_name(b"x" * 4096, b"K") + symlink(b"s", b""))
    unpack(root, long_name(b"x" * 4095, b"K") + symlink(b"s", b""))
    assert len(os.readlink(root / "s")) == 4095


def test_names_of_any_bytes(root: Path) -> None:
    """ApplyLayerInvalidFilenames turned round: every byte but NUL and slash is a name."""
    everything = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    unpack(root, pax([(b"path", everything)]) + file(b"x", b"1"), file(b"\n", b"2"), file(b"\xff\xfe", b"3"))
    assert sorted(os.listdir(os.fsencode(root))) == sorted([everything, b"\n", b"\xff\xfe"])


def test_names_too_long(root: Path) -> None:
    with pytest.raises(InvalidLayer, match="too long"):
        unpack(root, long_name(b"n" * 256) + file(b"x"))
    with pytest.raises(InvalidLayer, match="4095"):
        unpack(root, long_name(b"d/" * 2048 + b"x") + file(b"x"))
    deep = b"d/" * 1900 + b"x"
    unpack(root, long_name(deep) + file(b"x", b"deep"), long_name(b"d/" * 1900) + directory(b"x", 0o700))
    unpack(root, file(b"d", b"gone"))
    assert os.listdir(root) == ["d"]


def test_many_directories_at_once(root: Path) -> None:
    """More than are held open, in an order that never fits."""
    number = 4 * trees.OPEN_MAX
    parts = [
        file(b"d%d/f%d" % (directory_number, round_), b"x") for round_ in range(2) for directory_number in range(number)
    ]
    parts += [hard_link(b"d%d/h" % index, b"d%d/f0" % (number - 1 - index)) for index in range(number)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (trees.OPEN_MAX + 64, hard))
    try:
        unpack(root, *parts)
        unpack(root, *(file(b"d%d/g" % index, b"x") for index in range(number)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(sorted(os.listdir(root / f"d{index}")) == ["f0", "f1", "g", "h"] for index in range(number))


def test_symlinks_with_many_spellings(root: Path) -> None:
    unpack(root, directory(b"t"), *(symlink(b"s%d" % number, b"t") for number in range(30)), *(
        file(b"s%d/f%d" % (number % 30, number)) for number in range(200)
    ))  # fmt: skip
    assert len(os.listdir(root / "t")) == 200


@pytest.mark.parametrize("number", [(4096, 0), (0, 1 << 20), (1 << 20, 1), (-1, 5)])
def test_device_numbers_out_of_range(root: Path, number: tuple[int, int]) -> None:
    with pytest.raises(InvalidLayer, match="device number"):
        unpack(root, block(b"c", b"3", major=number[0], minor=number[1]))


def test_the_device_that_marks_deletions(root: Path) -> None:
    """OV-24: refused on every driver, with MAKE and SKIP."""
    (root / "x").write_text("x")
    for devices in Devices:
        with pytest.raises(InvalidLayer, match="0:0") as caught:
            unpack(root, block(b"x", b"3", major=0, minor=0), devices=devices)
        assert caught.value.entry == "x"
    assert (root / "x").read_text() == "x"


def test_devices_left_out(root: Path) -> None:
    """TA-32: devices and further names of them are left out and counted, fifos are made."""
    (root / "null").write_text("old")
    done = unpack(
        root,
        block(b"null", b"3", major=1, minor=3),
        block(b"loop0", b"4", major=7, minor=0),
        hard_link(b"zero", b"null"),
        block(b"fifo", b"6", mode=0o600),
        file(b"loop0", b"not a device"),
        hard_link(b"loop", b"loop0"),
    )
    assert done.skipped.devices == 3
    assert sorted(os.listdir(root)) == ["fifo", "loop", "loop0"]
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)


def test_owners_of_the_caller(root: Path) -> None:
    """Foreign owners become the caller, and are counted."""
    done = unpack(
        root,
        file(b"mine"),
        file(b"theirs", uid=12345, gid=os.getegid()),
        directory(b"d", uid=0xFFFFFFFE, gid=1),
        symlink(b"s", b"x", uid=12345),
        block(b"p", b"6", gid=54321),
        file(b"implied/f"),
    )
    assert done.skipped.owners == 4
    assert {(node.owner) for node in survey(root).values()} == {(os.geteuid(), os.getegid())}


def need_xattrs(root: Path) -> None:
    try:
        os.setxattr(root, "user.probe", b"")
        os.removexattr(root, "user.probe")
    except OSError:
        pytest.skip("this file system has no user.* attributes")


def test_xattrs(root: Path) -> None:
    """TA-24, TA-25, TarUntarWithXattr: any bytes; the host's are left out."""
    need_xattrs(root)
    value = bytes(range(256)) + b"\n="
    done = unpack(
        root,
        pax(
            [
                (b"SCHILY.xattr.user.k", value),
                (b"SCHILY.xattr.user.empty", b""),
                (b"SCHILY.xattr.security.selinux", b"label\0"),
                (b"SCHILY.xattr.system.nfs4_acl", b"x"),
                (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
                (b"SCHILY.xattr.user.overlay.redirect", b"/"),
            ]
        )
        + file(b"f"),
        pax([(b"LIBARCHIVE.xattr.user.d", b"ZA")]) + directory(b"d"),
        pax([(b"SCHILY.xattr.user.s", b"no link may have it")]) + symlink(b"s", b"f"),
        pax([(b"SCHILY.xattr.user.s", b"no fifo may have it")]) + block(b"p", b"6"),
    )
    assert {name: os.getxattr(root / "f", name) for name in os.listxattr(root / "f")} == {
        "user.k": value,
        "user.empty": b"",
    }
    assert os.getxattr(root / "d", "user.d") == b"d"
    assert (done.skipped.xattrs, done.skipped.host_xattrs) == (2, 4)


def test_xattrs_that_nothing_supports(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """TA-24: counted, and warned of once."""
    done = unpack(root, *(pax([(b"SCHILY.xattr.nonsense.k", b"v")]) + file(b"f%d" % number) for number in range(5)))
    assert done.skipped.xattrs == 5
    assert len(caplog.records) == 1
    assert len(os.listdir(root)) == 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_xattr_errors_that_stop(root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """TA-24."""

    def setxattr(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "setxattr", setxattr)
    with pytest.raises(OSError) as caught:
        unpack(root, pax([(b"SCHILY.xattr.user.k", b"v")]) + file(b"f"))
    assert caught.value.errno == code
    assert any("'f'" in note for note in caught.value.__notes__)


def test_directory_over_directory_replaces_attributes(root: Path) -> None:
    need_xattrs(root)
    (root / "d").mkdir()
    os.setxattr(root / "d", "user.old", b"old")
    (root / "d" / "old").write_text("old")
    unpack(root, pax([(b"SCHILY.xattr.user.new", b"new")]) + directory(b"d", 0o700))
    assert os.listxattr(root / "d") == ["user.new"]
    assert os.listdir(root / "d") == ["old"]
    unpack(root, file(b"d/x"))
    assert os.listxattr(root / "d") == ["user.new"]


def test_short_writes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def write(fd: int, data: memoryview) -> int:
        return real(fd, data[: max(1, len(data) // 3)])

    monkeypatch.setattr(os, "write", write)
    content = os.urandom(300_000)
    unpack(root, file(b"f", content), file(b"g", b"g"))
    assert (root / "f").read_bytes() == content
    assert (root / "g").read_bytes() == b"g"


def test_full_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_fd: int, _data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError) as caught:
        unpack(root, file(b"dir/f", b"1"))
    assert caught.value.errno == errno.ENOSPC
    assert "'dir/f'" in caught.value.__notes__[0]


def test_truncated_within_a_file(root: Path) -> None:
    """TA-30: the error names the entry and its place."""
    with pytest.raises(InvalidLayer) as caught:
        unpack(root, file(b"a"), file(b"b", b"x" * 1000)[:522], end=b"")
    assert (caught.value.entry, caught.value.offset) == ("b", 512)


def test_truncated_at_every_byte(root: Path) -> None:
    whole = directory(b"d") + pax([(b"mtime", b"1")]) + file(b"d/f", b"x" * 600) + symlink(b"s", b"d") + END
    for length in range(0, len(whole), 7):
        place = root / str(length)
        place.mkdir()
        try:
            unpack(place, whole[:length], end=b"")
        except InvalidLayer:
            continue
        assert length % 512 == 0 or length > len(whole) - 512


def test_stream_is_read_to_its_end(root: Path) -> None:
    import io

    stream = io.BytesIO(file(b"f") + bytes(300_000))
    fd = os.open(root, os.O_RDONLY)
    try:
        extract(stream, fd)
    finally:
        os.close(fd)
    assert stream.read() == b""


def test_errors_of_the_stream(root: Path) -> None:
    class Broken:
        def readinto(self, _buffer: memoryview, /) -> int:
            raise OSError(errno.EIO, "broken")

    fd = os.open(root, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="broken"):
            extract(Broken(), fd)
    finally:
        os.close(fd)
    assert Blocks(Broken()).offset == 0


def test_global_header_makes_no_file(root: Path) -> None:
    """TA-28: as `git archive` writes it."""
    unpack(root, pax([(b"comment", b"a" * 40)], b"g"), file(b"f"))
    assert os.listdir(root) == ["f"]


def test_what_python_would_refuse_or_change(root: Path) -> None:
    """TA-26: an absolute link, setuid, 1777: the same with every Python."""
    unpack(root, symlink(b"etc/mtab", b"/proc/mounts"), file(b"su", mode=0o4755), directory(b"tmp", 0o1777))
    assert os.readlink(root / "etc/mtab") == "/proc/mounts"
    assert (mode(root / "su"), mode(root / "tmp")) == (0o4755, 0o1777)


def test_limit_of_entries(root: Path) -> None:
    with pytest.raises(InvalidLayer, match="more than 10"):
        unpack(root, *(file(b"f%d" % number) for number in range(11)), limits=Limits(entries=10))


def test_directory_log_on_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cowstore.layers.directory_log._MEMORY_BYTES", 1000)
    unpack(root, *(directory(b"d%d" % number, 0o700 + number % 8, mtime=number) for number in range(100)))
    assert [(mode(root / f"d{n}"), (root / f"d{n}").stat().st_mtime) for n in range(100)] == [
        (0o700 + n % 8, n) for n in range(100)
    ]


def test_old_dialects(root: Path) -> None:
    """v7 and a GNU header beside ustar ones, directory by its slash."""
    unpack(
        root,
        block(b"old/", b"\0", magic=bytes(8), mode=0o755),
        block(b"old/f", b"\0", size=3, magic=bytes(8)) + pad(b"abc"),
        block(b"old/g", b"0", size=3, magic=GNU) + pad(b"abc"),
        block(b"old/c", b"7", size=3) + pad(b"abc"),
    )
    assert [(root / "old" / name).read_bytes() for name in "fgc"] == [b"abc"] * 3


def test_nothing_in_between_is_seen_by_others(root: Path) -> None:
    """A setuid file is not executable by anybody while its owner is not the right one yet."""
    seen = []
    real = os.fchmod

    def fchmod(fd: int, bits: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        real(fd, bits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fchmod", fchmod)
        unpack(root, file(b"su", mode=0o4755))
    assert seen[0] == 0o600
