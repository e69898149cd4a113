"""The mount table, every byte of it."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowstore._linux.procfs import MountInfo, children, filesystems, mountinfo, parse_mountinfo, unescape

if TYPE_CHECKING:
    from pathlib import Path

#: What the kernel escapes in names: mangle() in fs/proc_namespace.c.
KERNELS = b" \t\n\\#"


def escape(text: bytes, special: bytes = KERNELS) -> bytes:
    return b"".join(b"\\%03o" % byte if byte in special else bytes((byte,)) for byte in text)


text = st.binary(min_size=1, max_size=40).filter(lambda value: b"\0" not in value)
optional = st.lists(
    st.sampled_from([b"shared:1", b"master:2", b"propagate_from:3", b"unbindable", b"new_in_7:9", b"x"]), max_size=4
)


def line_of(root: bytes, point: bytes, tags: list[bytes], kind: bytes, source: bytes, options: bytes) -> bytes:
    first = [b"36", b"35", b"98:4095", escape(root), escape(point), b"rw,noatime"]
    return b" ".join([*first, *tags, b"-", escape(kind), escape(source), options])


@settings(deadline=None)
@given(root=text, point=text, tags=optional, kind=text, source=st.just(b"") | text, value=text)
def test_what_the_kernel_writes_is_read_back(
    root: bytes, point: bytes, tags: list[bytes], kind: bytes, source: bytes, value: bytes
) -> None:
    options = b"rw,lowerdir=" + escape(value, KERNELS + b",=") + b",lowerdir+=x,index"
    content = line_of(root, point, tags, kind, source, options) + b"\n"
    one, two = parse_mountinfo(content * 2)
    assert (one.mount_id, one.parent_id, one.major, one.minor) == (36, 35, 98, 4095)
    assert (one.root, one.mount_point, one.options) == (root, point, b"rw,noatime")
    assert one.optional == tuple(tags)
    assert one.shared == (b"shared:1" in tags)
    assert (one.fs_type, one.source) == (kind, source)
    assert one.super_options == b"rw,lowerdir=" + value + b",lowerdir+=x,index"
    assert one.super_option(b"lowerdir") == [value]
    assert one.super_option(b"index") == [b""]
    assert one.super_option(b"upperdir") == []
    assert two.mount_point == one.mount_point


@given(st.binary())
def test_every_byte_can_be_escaped(value: bytes) -> None:
    assert unescape(escape(value, bytes(range(256)))) == value
    assert unescape(escape(value)) == value


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"\\040", b" "),
        (b"\\377\\000", b"\xff\0"),
        (b"a\\134040", b"a\\040"),
        (b"\\", b"\\"),
        (b"\\4", b"\\4"),
        (b"\\04", b"\\04"),
        (b"\\400", b"\\400"),
        (b"\\089", b"\\089"),
        (b"\\ 12", b"\\ 12"),
        (b"\\\\040", b"\\ "),
        (b"a\\0401b", b"a 1b"),
    ],
)
def test_unescape(field: bytes, expected: bytes) -> None:
    assert unescape(field) == expected


@given(st.binary())
def test_unescape_never_fails(field: bytes) -> None:
    assert len(unescape(field)) <= len(field)


def test_repeated_super_options_keep_their_order() -> None:
    line = line_of(b"/", b"/m", [], b"overlay", b"o", b"ro,lowerdir+=/b,lowerdir+=/a\\054c,datadir+=/d")
    assert MountInfo(line).super_option(b"lowerdir+") == [b"/b", b"/a,c"]


def test_only_a_newline_ends_a_line() -> None:
    """Carriage returns, form feeds and vertical tabs stand in names as they are."""
    point = b"/a\r\x0b\x0c\x1c\x85b"
    (info,) = parse_mountinfo(line_of(b"/", point, [], b"tmpfs", b"none", b"rw") + b"\n")
    assert info.mount_point == point


@pytest.mark.parametrize(
    "line",
    [
        b"junk",
        b"36 35 98:0 / /m rw",
        b"36 35 98:0 / /m rw shared:1",
        b"36 35 98:0 / /m rw - ext4",
        b"36 35 98 / /m rw - ext4 /dev/sda rw",
        b"x 35 98:0 / /m rw - ext4 /dev/sda rw",
    ],
)
def test_anything_else_is_an_error(line: bytes) -> None:
    with pytest.raises(OSError) as caught:
        parse_mountinfo(line)
    assert caught.value.errno == errno.EBADMSG
    assert caught.value.filename == line


def test_no_super_options_are_none() -> None:
    info = MountInfo(b"36 35 98:0 / /m rw - ext4 /dev/sda")
    assert (info.super_options, info.super_option(b"rw")) == (b"", [])


def test_own_table() -> None:
    table = {info.mount_point: info for info in mountinfo()}
    assert table[b"/proc"].fs_type == b"proc"
    root = os.stat("/proc")
    assert (table[b"/proc"].major, table[b"/proc"].minor) == (os.major(root.st_dev), os.minor(root.st_dev))
    with open("/proc/self/mountinfo", "rb") as file:
        assert [int(line.split()[0]) for line in file] == [info.mount_id for info in mountinfo()]
    assert repr(table[b"/proc"]).endswith("on '/proc'>")


def test_path_is_the_callers(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_bytes(line_of(b"/", b"/x", [], b"tmpfs", b"none", b"rw") * 1 + b"\n")
    assert [info.mount_point for info in mountinfo(os.fsdecode(file))] == [b"/x"]
    assert [info.mount_point for info in mountinfo(os.fsencode(file))] == [b"/x"]
    with pytest.raises(FileNotFoundError):
        mountinfo(os.fsdecode(tmp_path / "none"))


def test_a_failing_read_says_of_what(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        mountinfo(os.fsdecode(tmp_path))
    assert caught.value.filename == os.fsdecode(tmp_path)
    assert caught.value.__notes__ == ["read(2)"]


def test_filesystems(tmp_path: Path) -> None:
    file = tmp_path / "filesystems"
    file.write_bytes(b"nodev\tsysfs\nnodev\toverlay\n\text4\n\tfuseblk\n")
    assert filesystems(os.fsdecode(file)) == {"sysfs": True, "overlay": True, "ext4": False, "fuseblk": False}


def test_filesystems_of_this_kernel() -> None:
    found = filesystems()
    assert found["proc"] is True
    assert found["tmpfs"] is True


def test_children_of_any_thread() -> None:
    """Of whatever thread of ours; one that has ended and was waited for is none any more."""
    before = set(children(os.getpid()))
    started: list[subprocess.Popen[bytes]] = []
    begun, end = threading.Event(), threading.Event()

    def start() -> None:
        started.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
        begun.set()
        end.wait(60)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        started.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
        assert begun.wait(60)
        assert set(children(os.getpid())) - before == {each.pid for each in started}
    finally:
        end.set()
        thread.join()
        for each in started:
            each.communicate(timeout=60)
    assert set(children(os.getpid())) == before


def test_children_of_what_has_ended() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    with pytest.raises(FileNotFoundError):
        children(ended.pid)
