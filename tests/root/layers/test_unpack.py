"""What only root can own, make and mount."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cowstore._linux.mount import UmountFlag, mount, umount2
from cowstore.errors import InvalidLayer
from cowstore.layers.extract import Devices, Owners
from tests import tiers
from tests.unit.layers.archives import block, directory, file, hard_link, pax, survey, symlink, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: cap_net_raw=ep, as setcap writes it; version 2.
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "root"
    place.mkdir()
    return place


def keep(root: Path, *parts: bytes) -> object:
    return unpack(root, *parts, owners=Owners.KEEP, devices=Devices.MAKE)


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


@pytest.mark.parametrize("ids", [(1000, 2000), (2_100_000_000, 7), (0xFFFFFFFE, 0xFFFFFFFE), (0, 0)])
def test_owners(root: Path, ids: tuple[int, int]) -> None:
    """TA-21, of every type; a link's own, not its target's."""
    uid, gid = ids
    who: dict[str, Any] = {"uid": uid, "gid": gid}
    keep(
        root,
        file(b"f", **who),
        directory(b"d", **who),
        symlink(b"s", b"t", **who),
        block(b"p", b"6", **who),
        block(b"c", b"3", major=1, minor=3, **who),
        file(b"t", uid=5, gid=5),
        hard_link(b"h", b"f", uid=9, gid=9),
        file(b"implied/f", **who),
    )
    assert [owner(root / name) for name in ("f", "d", "s", "p", "c", "h", "implied/f")] == [ids] * 7
    assert owner(root / "t") == (5, 5)
    assert owner(root / "implied") == (0, 0)


def test_setuid_and_capability(root: Path) -> None:
    """TA-23: chown, chmod, attributes, times, in this order; otherwise both are lost."""
    keep(
        root,
        pax([(b"SCHILY.xattr.security.capability", NET_RAW), (b"mtime", b"5.123456789")])
        + file(b"ping", b"x", mode=0o4755, uid=1000, gid=1000),
    )
    assert stat.S_IMODE((root / "ping").stat().st_mode) == 0o4755
    assert owner(root / "ping") == (1000, 1000)
    assert os.getxattr(root / "ping", "security.capability") == NET_RAW
    assert (root / "ping").stat().st_mtime_ns == 5_123_456_789


@pytest.mark.parametrize("value", [b"junk", NET_RAW[:-1]])
def test_capability_that_is_none(root: Path, value: bytes) -> None:
    with pytest.raises(InvalidLayer, match=r"security\.capability"):
        keep(root, pax([(b"SCHILY.xattr.security.capability", value)]) + file(b"f"))


def test_privileged_attributes(root: Path) -> None:
    keep(
        root,
        pax([(b"SCHILY.xattr.trusted.k", b"file")]) + file(b"f"),
        pax([(b"SCHILY.xattr.trusted.k", b"link")]) + symlink(b"s", b"f"),
        pax([(b"SCHILY.xattr.trusted.k", b"fifo")]) + block(b"p", b"6"),
        pax([(b"SCHILY.xattr.trusted.k", b"device")]) + block(b"c", b"3", major=1, minor=3),
        pax([(b"SCHILY.xattr.trusted.k", b"directory")]) + directory(b"d"),
    )
    found = [os.getxattr(root / name, "trusted.k", follow_symlinks=False) for name in "fspcd"]
    assert found == [b"file", b"link", b"fifo", b"device", b"directory"]


def test_devices(root: Path) -> None:
    """TarWithBlockCharFifo; modes whatever the umask; numbers to the last bit."""
    old = os.umask(0o077)
    try:
        keep(
            root,
            block(b"null", b"3", major=1, minor=3, mode=0o666),
            block(b"loop", b"4", major=7, minor=0, mode=0o660, gid=6),
            block(b"zero", b"4", major=0, minor=0, mode=0o600),
            block(b"big", b"3", major=4095, minor=1048575, mode=0o600),
            hard_link(b"null2", b"null"),
        )
    finally:
        os.umask(old)
    found = {name: (root / name).lstat() for name in ("null", "loop", "zero", "big", "null2")}
    assert (found["null"].st_mode, found["null"].st_rdev) == (stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (found["loop"].st_mode, found["loop"].st_rdev) == (stat.S_IFBLK | 0o660, os.makedev(7, 0))
    assert found["zero"].st_rdev == 0
    assert found["big"].st_rdev == os.makedev(4095, 1048575)
    assert found["null2"].st_ino == found["null"].st_ino


def acl(path: Path) -> str:
    return subprocess.run(["getfacl", "-cpn", path], check=True, capture_output=True, text=True).stdout


def test_acls_by_number(root: Path) -> None:
    tiers.need_program("getfacl")
    access = b"user::rw-,user:1000:r--,group::r--,group:7:rwx,mask::rwx,other::---"
    keep(
        root,
        pax([(b"SCHILY.acl.access", access)]) + file(b"f", mode=0o670),
        pax([(b"SCHILY.acl.access", access), (b"SCHILY.acl.default", access)]) + directory(b"d", 0o670),
        file(b"d/in", mode=0o640),
        directory(b"d/sub", 0o755),
        pax([(b"SCHILY.acl.default", access)]) + file(b"g"),
    )
    lines = access.decode().replace(",", "\n")
    assert acl(root / "f") == lines + "\n\n"
    assert acl(root / "d") == lines + "\n" + "".join(f"default:{line}\n" for line in lines.split()) + "\n"
    assert acl(root / "d/in") == "user::rw-\ngroup::r--\nother::---\n\n"
    assert os.listxattr(root / "d/sub") == os.listxattr(root / "g") == []


def test_acls_by_name(root: Path) -> None:
    """As GNU tar writes them: by the tree's own users, wherever their list stands in the archive."""
    tiers.need_program("getfacl")
    text = b"user::rwx,user:lisa:r-x,group::r-x,group:adm:r--,mask::r-x,other::---"
    done = unpack(
        root,
        pax([(b"SCHILY.acl.access", text), (b"SCHILY.acl.default", text)]) + directory(b"log", 0o750),
        pax([(b"SCHILY.acl.access", text)]) + file(b"log/f", mode=0o750),
        pax([(b"SCHILY.acl.access", text.replace(b"lisa", b"nobody-knows"))]) + file(b"unknown", mode=0o750),
        pax([(b"SCHILY.acl.access", text)]) + file(b"replaced", mode=0o750),
        file(b"replaced"),
        file(b"etc/passwd", b"root:x:0:0\nlisa:x:1234:5:::\nbroken\n"),
        file(b"etc/group", b"adm:x:44:\n"),
        owners=Owners.KEEP,
    )
    assert "user:1234:r-x\ngroup::r-x\ngroup:44:r--" in acl(root / "log/f")
    assert "default:group:44:r--" in acl(root / "log")
    assert os.listxattr(root / "unknown") == os.listxattr(root / "replaced") == []
    assert done.skipped.counts() == {"acls": 1}


def test_names_are_not_read_from_a_device(root: Path) -> None:
    text = b"user::rwx,user:lisa:r-x,group::r-x,mask::r-x,other::---"
    done = unpack(
        root,
        pax([(b"SCHILY.acl.access", text)]) + file(b"f"),
        block(b"etc/passwd", b"6"),
        owners=Owners.KEEP,
    )
    assert done.skipped.acls == 1


@pytest.mark.parametrize("text", [b"user::rwx", b"junk"])
def test_acls_that_are_none(root: Path, text: bytes) -> None:
    with pytest.raises(InvalidLayer, match="ACL"):
        keep(root, pax([(b"SCHILY.acl.access", text)]) + file(b"f"))


def test_acls_are_left_out_with_foreign_owners(root: Path) -> None:
    """They would give rights to whoever has that number on this machine."""
    text = b"user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::---"
    done = unpack(root, pax([(b"SCHILY.acl.access", text)]) + file(b"f"), owners=Owners.CALLER)
    assert done.skipped.counts() == {"acls": 1}
    assert os.listxattr(root / "f") == []


def test_nothing_is_inherited_from_the_lower_tree(root: Path) -> None:
    """A setgid directory and a default ACL give nothing to what the archive makes in them."""
    tiers.need_program("setfacl")
    lower = root / "lower"
    lower.mkdir()
    os.chown(lower, 0, 77)
    lower.chmod(0o2775)
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", lower], check=True)
    keep(
        root,
        file(b"lower/f", mode=0o640, gid=5),
        directory(b"lower/d", 0o750, gid=5),
        file(b"lower/d/f", mode=0o640, gid=5),
        file(b"lower/implied/f", mode=0o640, gid=5),
        block(b"lower/p", b"6", mode=0o640, gid=5),
    )
    for name, bits in (
        ("f", 0o640),
        ("d", 0o750),
        ("d/f", 0o640),
        ("implied", 0o755),
        ("implied/f", 0o640),
        ("p", 0o640),
    ):
        assert os.listxattr(lower / name) == [], name
        assert stat.S_IMODE((lower / name).stat().st_mode) == bits, name
        assert owner(lower / name) == ((0, 0) if name == "implied" else (0, 5)), name
    assert owner(lower) == (0, 77)
    assert os.listxattr(lower) == ["system.posix_acl_default"]


def test_parents_keep_what_they_have(root: Path) -> None:
    """TA-11."""
    (root / "etc").mkdir()
    os.chown(root / "etc", 7, 8)
    (root / "etc").chmod(0o751)
    os.setxattr(root / "etc", "trusted.k", b"v")
    keep(root, file(b"etc/new/x", uid=5))
    assert owner(root / "etc") == (7, 8)
    assert os.getxattr(root / "etc", "trusted.k") == b"v"
    assert owner(root / "etc/new") == (0, 0)


def test_gnu_tar_agrees(tmp_path: Path, root: Path) -> None:
    """A tree with everything, through GNU tar and bsdtar, comes back as it was."""
    tiers.need_program("tar", "bsdtar", "setfacl")
    source = tmp_path / "source"
    source.mkdir()
    for number, name in enumerate(("a", "b", "d/e", "d/f")):
        path = source / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
        os.chown(path, 1000 + number, 3_000_000_000)
        path.chmod(0o4755 >> number)
    os.setxattr(source / "a", "security.capability", NET_RAW)
    os.setxattr(source / "b", "trusted.k", bytes(range(256)))
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mkfifo(source / "fifo")
    (source / "link").symlink_to("a")
    os.lchown(source / "link", 5, 6)
    os.setxattr(source / "link", "trusted.l", b"link", follow_symlinks=False)
    os.link(source / "a", source / "a2")
    subprocess.run(["setfacl", "-m", "u:1000:rwx,g:55555:r", source / "d/e", source / "d"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", source / "d"], check=True)
    for program, options in (
        ("tar", ["--format=posix", "--xattrs", "--xattrs-include=*", "--acls"]),
        ("bsdtar", ["--format=pax", "--xattrs", "--acls"]),
    ):
        archive = tmp_path / f"{program}.tar"
        subprocess.run([program, *options, "-cf", archive, "-C", source, "."], check=True)
        place = root / program
        place.mkdir()
        keep(place, archive.read_bytes())
        assert survey(place) == survey(source), program


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A mounted overlay over a lower tree."""
    places = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for path in places.values():
        path.mkdir()
    lower = places["lower"]
    for name in ("a/b/c", "d/old", "d/sub/old2", "gone", "linked", "dir/x"):
        (lower / name).parent.mkdir(parents=True, exist_ok=True)
        (lower / name).write_text("lower " + name)
    (lower / "d").chmod(0o751)
    os.chown(lower / "d", 7, 7)
    (lower / "bin").symlink_to("dir")
    options = ",".join(f"{name}dir={places[name]}" for name in ("lower", "upper", "work"))
    mount("overlay", str(places["merged"]), "overlay", data=options)
    yield places
    umount2(str(places["merged"]), UmountFlag.DETACH)


def test_over_a_mounted_overlay(overlay: dict[str, Path]) -> None:
    """The kernel makes the whiteouts; the lower tree is untouched; a hard link to a lower file shares its inode."""
    before = survey(overlay["lower"])
    merged, upper = overlay["merged"], overlay["upper"]
    keep(
        merged,
        file(b".wh.gone"),
        file(b"a/.wh.b"),
        file(b"d/new", b"new"),
        file(b"d/.wh..wh..opq"),
        hard_link(b"link", b"linked"),
        directory(b"bin", 0o700),
        file(b"bin/tool", b"tool"),
        pax([(b"SCHILY.xattr.trusted.overlay.opaque", b"y")]) + directory(b"dir", 0o755),
    )
    assert survey(overlay["lower"]) == before
    assert sorted(os.listdir(merged)) == ["a", "bin", "d", "dir", "link", "linked"]
    assert os.listdir(merged / "a") == []
    assert os.listdir(merged / "d") == ["new"]
    assert (owner(merged / "d"), stat.S_IMODE((merged / "d").stat().st_mode)) == ((7, 7), 0o751)
    assert os.listdir(merged / "bin") == ["tool"]
    assert os.listdir(merged / "dir") == ["x"]
    assert (merged / "link").stat().st_ino == (merged / "linked").stat().st_ino
    assert (upper / "gone").lstat().st_rdev == 0
    assert stat.S_ISCHR((upper / "gone").lstat().st_mode)


def test_full_disk(tmp_path: Path) -> None:
    """ENOSPC comes up as it is, with the entry's name."""
    place = tmp_path / "small"
    place.mkdir()
    mount("tmpfs", str(place), "tmpfs", data="size=1m")
    try:
        with pytest.raises(OSError, match="space") as caught:
            keep(place, file(b"a", bytes(100_000)), file(b"b", os.urandom(2 << 20)))
        assert "'b'" in caught.value.__notes__[0]
    finally:
        umount2(str(place))


def test_mounts_below_the_root_are_not_entered(root: Path) -> None:
    (root / "m").mkdir()
    mount("tmpfs", str(root / "m"), "tmpfs", data="size=1m")
    try:
        with pytest.raises(OSError) as caught:
            keep(root, file(b"m/f"))
        assert caught.value.errno == 18
        assert os.listdir(root / "m") == []
    finally:
        umount2(str(root / "m"))


def as_nobody(step: Callable[[Path], None]) -> None:
    """Take a step in a process of an ordinary user, in a directory of his own."""
    place = Path(tempfile.mkdtemp(prefix="cowstore-nobody-"))
    os.chown(place, 65534, 65534)
    sys.stderr.flush()
    try:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                step(place)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        shutil.rmtree(place)


def test_ordinary_user() -> None:
    """TA-32, TA-33 and a rootless import: read-only directories, foreign owners, devices, privileged attributes."""

    def step(place: Path) -> None:
        done = unpack(
            place,
            directory(b"d", 0o555, uid=0, gid=0, mtime=1),
            directory(b"d/e", 0o500, mtime=2),
            file(b"d/e/f", b"1", uid=1000),
            directory(b"d/n", 0o000, mtime=4),
            file(b"d/n/f", mode=0o000),
            directory(b"d/n/sub", 0o311, mtime=5),
            block(b"d/null", b"3", major=1, minor=3),
            block(b"d/fifo", b"6", mode=0o640),
            pax([(b"SCHILY.xattr.security.capability", NET_RAW), (b"SCHILY.xattr.trusted.k", b"v")]) + file(b"cap"),
            file(b"su", mode=0o4755),
        )
        assert done.skipped.counts() == {"owners": 2, "devices": 1, "xattrs": 2}
        assert stat.S_IMODE((place / "d").stat().st_mode) == 0o555
        assert (place / "d").stat().st_mtime == 1
        assert stat.S_IMODE((place / "d/e").stat().st_mode) == 0o500
        assert stat.S_IMODE((place / "d/n").stat().st_mode) == 0
        assert (place / "d/n").stat().st_mtime == 4
        (place / "d/n").chmod(0o700)
        found = (place / "d/n/sub").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o311, 5)
        (place / "d/n").chmod(0)
        assert stat.S_IMODE((place / "su").stat().st_mode) == 0o4755
        # A second layer, over directories that bind their owner.
        unpack(place, file(b"d/new", b"2"), file(b"d/e/.wh.f"), directory(b"d/n", 0o700), file(b"d/n/f", b"3"))
        assert sorted(os.listdir(place / "d")) == ["e", "fifo", "n", "new"]
        assert stat.S_IMODE((place / "d").stat().st_mode) == 0o555
        assert (place / "d").stat().st_mtime == 1
        assert os.listdir(place / "d/e") == []
        assert (place / "d/n/f").read_bytes() == b"3"
        # And whole trees of such directories go.
        unpack(place, file(b".wh.d"))
        assert not (place / "d").exists()

    as_nobody(step)


def test_ordinary_user_cannot_keep_owners() -> None:
    def step(place: Path) -> None:
        with pytest.raises(PermissionError):
            unpack(place, file(b"f", uid=0), owners=Owners.KEEP)
        with pytest.raises(PermissionError):
            unpack(place, block(b"c", b"3", major=1, minor=3), devices=Devices.MAKE)

    as_nobody(step)
