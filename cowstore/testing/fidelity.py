"""Every kind of file, every byte of a name, every attribute: nothing is lost between a layer and its children."""

from __future__ import annotations

import errno
import os
import struct

from cowstore.testing import oracle
from cowstore.testing._case import Ground, NotApplicable, case
from cowstore.testing._expect import equal
from cowstore.testing.edits import Editor


@case("beyond: names of every byte")
def names_of_every_byte(ground: Ground) -> None:
    """Names of each single byte, of all bytes, of the most bytes there may be, not UTF-8; files, directories, links."""
    single = [bytes([byte]) for byte in range(1, 256) if bytes([byte]) not in {b"/", b"."}]
    everything = bytes(byte for byte in range(1, 256) if byte != ord("/"))

    longest = _longest_name(ground)

    def first(tree: Editor) -> None:
        tree.mkdir("bytes")
        for name in single:
            tree.write(b"bytes/" + name, name)
        tree.mkdir(everything[:100])
        tree.write(everything[:100] + b"/" + everything[100:], "all")
        tree.write(b"\xff" * longest, "long")
        tree.symlink(everything, "link")
        tree.mkdir(b"dir-\xe9\n\\")
        tree.write(b"dir-\xe9\n\\/ \t", "odd")

    def second(tree: Editor) -> None:
        for name in single[::2]:
            tree.remove(b"bytes/" + name)
        tree.remove(everything[:100])
        tree.rename(b"\xff" * longest, b"\xfe" * longest)
        tree.write(b"dir-\xe9\n\\/ \t", "changed")

    ground.grow(first, second)


def _longest_name(ground: Ground) -> int:
    """Ask how long a name may be, and assert that a longer one is refused as such."""
    ground.store.prepare("asked")
    with ground.mounted("asked") as root:
        longest = os.statvfs(root).f_namemax
        try:
            os.mkdir(os.fsencode(root) + b"/" + b"\xff" * (longest + 1))
        except OSError as error:
            equal(error.errno, errno.ENAMETOOLONG, f"errno of a name of {longest + 1} bytes")
        else:
            raise AssertionError(f"a name of {longest + 1} bytes can be made, though {longest} are the most")
    ground.store.remove("asked")
    return longest


@case("beyond (3): whiteout-like names")
def names_like_whiteouts(ground: Ground) -> None:
    """Names that layers use for themselves are names like any other within a store."""

    def first(tree: Editor) -> None:
        tree.mkdir("d")
        tree.write("d/kept", "kept")
        tree.write("d/.wh.other", "x")

    def second(tree: Editor) -> None:
        tree.write("d/.wh.kept", "not a whiteout")
        tree.write("d/.wh..wh..opq", "not a mark")
        tree.mkdir("d/.wh..wh.plnk")
        tree.remove("d/.wh.other")

    if ground.factory.driver == "aufs":
        raise NotApplicable("aufs keeps names that begin with .wh. for itself")
    ground.grow(first, second)


@case("BT-05; TA-40; beyond (4)")
def same_size_same_time(ground: Ground) -> None:
    """Another content of the same size, with the old modification time put back, is a change."""
    stamp = 1_555_555_555_000_000_000

    def first(tree: Editor) -> None:
        for name in ("in-place", "replaced", "untouched", "mapped"):
            tree.write(name, "aaaa" * 2000)
            tree.utime(name, stamp)

    def second(tree: Editor) -> None:
        tree.write_at("in-place", 5000, b"bb")
        tree.utime("in-place", stamp)
        tree.replace("replaced", "aaab" * 2000)
        tree.utime("replaced", stamp)
        _write_mapped(tree.at("mapped"))
        tree.utime("mapped", stamp)

    keys = ground.grow(first, second)
    found = [path for kind, path in ground.changes(keys[1]) if kind == "modified" and path != "."]
    equal(found, ["in-place", "mapped", "replaced"], "changes")


def _write_mapped(path: bytes) -> None:
    import mmap

    fd = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(fd, 0) as memory:
            memory[100:104] = b"mmap"
    finally:
        os.close(fd)


@case("moby GH13590; machine#3327: Chmod; beyond (4)")
def metadata_only(ground: Ground) -> None:
    """Changes of mode, owner, time or attributes alone are changes, to the nanosecond, and nothing else is."""

    def first(tree: Editor) -> None:
        for name in ("mode", "time", "second", "xattr", "negative", "far"):
            tree.write(name, name)
        tree.mkdir("dir")
        tree.symlink("mode", "link")
        tree.utime("second", 1_555_555_555_000_000_000)

    def second(tree: Editor) -> None:
        tree.chmod("mode", 0o4711)
        tree.utime("time", 1_555_555_555_123_456_789)
        tree.utime("second", 1_555_555_555_000_000_001)
        tree.utime("negative", -1_555_555_555_000_000_001)
        tree.utime("far", 8_000_000_000_000_000_001)
        tree.setxattr("xattr", "user.note", b"\0\xff\n")
        tree.chmod("dir", 0o700)
        tree.utime("link", 1_444_444_444_999_999_999)

    def third(tree: Editor) -> None:
        tree.setxattr("xattr", "user.note", b"")
        tree.setxattr("xattr", "user.other", b"x" * 200)

    keys = ground.grow(first, second, third)
    if ground.store.capabilities.xattr_removal:
        ground.grow(lambda tree: tree.removexattr("xattr", "user.note"), parent=keys[-1], name="without")


@case("bad input: a clock that was set back; beyond (4)")
def clock_set_back(ground: Ground) -> None:
    """Files from the future, and changes that are older than what they change, are files and changes like any other."""
    future, past = 4_102_444_800 * 10**9, 86_400 * 10**9

    def first(tree: Editor) -> None:
        for name in ("file", "kept"):
            tree.write(name, "aaaa")
            tree.utime(name, future)
        tree.mkdir("dir")
        tree.utime("dir", future)

    def second(tree: Editor) -> None:
        tree.write("file", "bbbb")
        tree.utime("file", past)
        tree.write("dir/new", "new")
        tree.utime("dir/new", past)
        tree.utime("dir", past)

    ground.grow(first, second, lambda tree: tree.utime("file", future))


@case("TA-24, OV-15; beyond (3): xattrs", privileged=True)
def attributes(ground: Ground) -> None:
    """Attributes of all name spaces, ACLs and file capabilities stay, through changes of their file and of others."""
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permission, who)
        for tag, permission, who in (
            (1, 6, 0xFFFFFFFF),
            (2, 4, 1000),
            (4, 4, 0xFFFFFFFF),
            (16, 4, 0xFFFFFFFF),
            (32, 0, 0xFFFFFFFF),
        )
    )

    def first(tree: Editor) -> None:
        tree.write("file", "x" * 5000)
        tree.mkdir("dir")
        tree.write("dir/in", "in")
        tree.symlink("file", "link")
        for path in ("file", "dir"):
            tree.setxattr(path, "user.binary", bytes(range(256)))
            tree.setxattr(path, "trusted.cowstore", b"trusted")
            tree.setxattr(path, "system.posix_acl_access", acl)
        tree.setxattr("dir", "system.posix_acl_default", acl)
        tree.setxattr("link", "trusted.on-link", b"link")
        tree.setxattr("file", "security.capability", capability)
        tree.write("set", "set", 0o755)
        tree.chown("set", 7, 8)
        tree.chmod("set", 0o6755)

    def second(tree: Editor) -> None:
        tree.chown("file", 3, 4)
        tree.setxattr("file", "security.capability", capability)
        tree.append("dir/in", "more")
        tree.setxattr("dir", "user.more", b"more")
        tree.rename("link", "link-2")

    keys = ground.grow(first, second)
    if ground.store.capabilities.xattr_removal:
        ground.grow(lambda tree: tree.removexattr("file", "trusted.cowstore"), parent=keys[-1], name="without")


@case("beyond (3); TA-32: devices and FIFOs", privileged=True)
def devices(ground: Ground) -> None:
    """Device nodes and FIFOs keep their numbers and modes, are replaced and removed, and large numbers are numbers."""

    def first(tree: Editor) -> None:
        tree.device("null", 1, 3, mode=0o666)
        tree.device("disk", 8, 17, block=True)
        tree.device("large", 4095, 1_048_575)
        tree.fifo("fifo", 0o622)
        tree.mkdir("dev")
        tree.device("dev/tty", 5, 0, mode=0o620)
        tree.chown("dev/tty", 0, 5)

    def second(tree: Editor) -> None:
        tree.remove("null")
        tree.device("null", 1, 5)
        tree.chmod("disk", 0o640)
        tree.remove("fifo")
        tree.remove("dev")
        tree.device("dev", 1, 7)

    ground.grow(first, second)


@case("OV-24: a real character device 0:0", privileged=True)
def device_zero(ground: Ground) -> None:
    """A device 0:0, which overlay uses as its own mark, is kept or refused; it never hides what lies below."""
    import stat

    base = ground.grow(lambda tree: tree.write("x", "below"))[0]
    ground.store.prepare("active", base)
    with ground.mounted("active") as root:
        try:
            os.mknod(f"{root}/zero", 0o600 | stat.S_IFCHR, os.makedev(0, 0))
        except PermissionError:
            return
        except OSError as error:
            raise AssertionError(f"the refusal should say EPERM: {error}") from error
    found = ground.scan("active")
    equal((found[b"zero"].type, found[b"zero"].device), ("character device", 0), "the device")
    ground.store.commit("layer", "active")
    oracle.assert_same_trees(found, ground.scan("layer"), what="layer")


@case("CS copy; TA-21: sparse files")
def sparse_files(ground: Ground) -> None:
    """Files of holes keep size and content, take no room for holes, and can be changed in the middle."""
    size = 1 << 28

    def first(tree: Editor) -> None:
        tree.sparse("sparse", size, (0, b"start"), (size // 2, b"middle"), (size - 3, b"end"))
        tree.sparse("empty", 1 << 24)

    base = _grow_light(ground, first)
    ground.store.prepare("active", base)
    with ground.mounted("active") as root:
        _assert_sparse(f"{root}/sparse", size, {0: b"start", size // 2: b"middle", size - 3: b"end"})
        Editor(root, round_=2).write_at("sparse", size // 4, b"quarter")
    ground.store.commit("layer", "active")
    with ground.mounted("layer") as root:
        wanted = {0: b"start", size // 4: b"quarter", size // 2: b"middle", size - 3: b"end"}
        _assert_sparse(f"{root}/sparse", size, wanted)
        _assert_sparse(f"{root}/empty", 1 << 24, {})


def _grow_light(ground: Ground, edits: object) -> str:
    """Make a layer without comparing what would be read byte by byte."""
    assert callable(edits)
    ground.store.prepare("making")
    with ground.mounted("making") as root:
        edits(Editor(root))
    return ground.store.commit("base", "making").key


def _assert_sparse(path: str, size: int, pieces: dict[int, bytes]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(fd)
        equal(status.st_size, size, f"size of {path}")
        assert status.st_blocks * 512 < size // 4, f"{path} takes {status.st_blocks * 512} bytes: its holes were filled"
        for offset, data in pieces.items():
            equal(os.pread(fd, len(data), offset), data, f"{path} at {offset}")
        equal(os.pread(fd, 64, size // 3), bytes(64), f"a hole of {path}")
    finally:
        os.close(fd)


@case("TA-33: read-only directories", privileged=False)
def modes_that_block(ground: Ground) -> None:
    """Directories and files that nobody may write, or even read, do not stop any verb."""

    def first(tree: Editor) -> None:
        tree.makedirs("locked/inner")
        tree.write("locked/inner/file", "x", 0o400)
        tree.chmod("locked/inner", 0o500)
        tree.chmod("locked", 0o555)
        tree.stamp("locked/inner", "locked")

    def second(tree: Editor) -> None:
        tree.write("other", "x", 0o444)
        tree.chmod("locked", 0o755)
        tree.chmod("locked/inner", 0o755)
        tree.write("locked/inner/more", "y")
        tree.chmod("locked/inner", 0o555)
        tree.stamp("locked/inner")

    keys = ground.grow(first, second)
    ground.store.prepare("active", keys[1])
    with ground.mounted("active") as root:
        if os.geteuid() == 0:
            os.mkdir(f"{root}/closed", 0o000)
            os.mkdir(f"{root}/closed/in", 0o000)
        os.chmod(f"{root}/locked", 0o000)
    ground.store.remove("active", wait=True)


@case("TA-21: very large ids", privileged=True)
def large_ids(ground: Ground) -> None:
    """Owners of 31 and 32 bits are kept."""

    def first(tree: Editor) -> None:
        tree.write("large", "x")
        tree.chown("large", 2_147_483_648, 4_294_967_294)
        tree.mkdir("dir")
        tree.chown("dir", 2_097_152, 100_000)

    ground.grow(first, lambda tree: tree.write("dir/new", "x"))


@case("beyond: large and many", slow=True)
def large_and_many(ground: Ground) -> None:
    """A directory of thousands of names, a file of megabytes, a deep path."""

    def first(tree: Editor) -> None:
        tree.mkdir("many")
        for number in range(1000):
            os.close(os.open(tree.at(f"many/{number:05}"), os.O_CREAT | os.O_WRONLY, 0o644))
            tree.stamp(f"many/{number:05}")
        tree.stamp("many")
        tree.write("large", bytes(range(256)) * 12_000)
        tree.makedirs("/".join(f"level-{number:03}" for number in range(60)))

    def second(tree: Editor) -> None:
        for number in range(0, 1000, 50):
            tree.remove(f"many/{number:05}")
        tree.write_at("large", 1_000_000, b"changed")
        tree.write("/".join(f"level-{number:03}" for number in range(60)) + "/file", "deep")

    ground.grow(first, second)


@case("chattr: flags of files", privileged=True)
def immutable_files(ground: Ground) -> None:
    """Immutable and append-only files and directories inside a snapshot do not stop its removal."""
    import fcntl

    get, put, immutable, append = 0x80086601, 0x40086602, 0x10, 0x20
    ground.store.prepare("active")
    with ground.mounted("active") as root:
        os.makedirs(f"{root}/dir/empty")
        for name in ("stone", "log"):
            os.mknod(f"{root}/dir/{name}")
        for path, flag in (("dir/stone", immutable), ("dir/log", append), ("dir/empty", append), ("dir", immutable)):
            fd = os.open(f"{root}/{path}", os.O_RDONLY)
            try:
                flags = struct.unpack("i", fcntl.ioctl(fd, get, bytes(4)))[0]
                fcntl.ioctl(fd, put, struct.pack("i", flags | flag))
            except OSError as error:
                if error.errno in {errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM}:
                    raise NotApplicable("the file system has no immutable files") from error
                raise
            finally:
                os.close(fd)
    ground.store.remove("active", wait=True)
    ground.clean()
