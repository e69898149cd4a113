"""The breakout cases of containerd's archive tests, and the field cases of their kind.

The `root` fixture compares everything around the root before and after. "Inside" is decided as docs/layers.md says:
names that lead out of the root are errors; links are followed inside it.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from cowstore.errors import InvalidLayer
from tests.unit.layers.archives import block, directory, file, hard_link, pax, symlink, unpack

if TYPE_CHECKING:
    from pathlib import Path

ETC = directory(b"etc")
PASSWD = file(b"/etc/passwd", b"inside")


def same(root: Path, one: str, other: str) -> bool:
    return os.path.samestat((root / one).lstat(), (root / other).lstat())


def base(root: Path, *links: tuple[str, str]) -> None:
    """A lower layer: etc/passwd, etc/whitedout, and links."""
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("inside")
    (root / "etc/whitedout").write_text("whiteout")
    for name, target in links:
        (root / name).symlink_to(target)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(symlink(b"localetc", b"/etc"), id="SymlinkAbsolute"),
        pytest.param(directory(b"dummy") + symlink(b"localetc", b"/dummy/../etc"), id="SymlinkUpAndOut"),
        pytest.param(
            directory(b"dummy") + symlink(b"/dummy/etc", b"/etc") + symlink(b"localetc", b"/dummy/etc"),
            id="SymlinkMultipleAbsolute",
        ),
        pytest.param(
            directory(b"dummy") + symlink(b"/dummy/etc", b"/etc") + symlink(b"localetc", b"./dummy/etc"),
            id="SymlinkMultipleRelative",
        ),
        pytest.param(symlink(b"localetc", b"../../../../../../etc"), id="relative, up and out"),
        pytest.param(symlink(b"localetc", b"etc/./../etc//"), id="relative, with dots"),
    ],
)
def test_symlinks_on_the_way(root: Path, before: bytes) -> None:
    """SymlinkAbsolute, SymlinkUpAndOut, SymlinkMultipleAbsolute, SymlinkMultipleRelative."""
    unpack(root, ETC, before, file(b"/localetc/unbroken", b"unbroken"))
    assert (root / "etc/unbroken").read_text() == "unbroken"
    assert (root / "localetc").is_symlink()


def test_absolute_symlink_in_an_open_directory(root: Path) -> None:
    """Absolute means from the root, also where the directory that the link is in is open already."""
    unpack(root, ETC, directory(b"a"), file(b"a/f"), symlink(b"a/b", b"/etc"), file(b"a/b/x", b"1"), file(b"a/b/y/z"))
    assert sorted(os.listdir(root / "etc")) == ["x", "y"]
    assert sorted(os.listdir(root / "a")) == ["b", "f"]


def test_symlink_replaced_between_two_entries_through_it(root: Path) -> None:
    unpack(
        root,
        directory(b"one"),
        directory(b"two"),
        symlink(b"x", b"one"),
        file(b"x/1"),
        symlink(b"x", b"two"),
        file(b"x/2"),
        directory(b"x"),
        file(b"x/3"),
    )
    assert [os.listdir(root / name) for name in ("one", "two", "x")] == [["1"], ["2"], ["3"]]


def test_symlink_empty_file(root: Path) -> None:
    """SymlinkEmptyFile."""
    unpack(root, ETC, file(b"etc/emptied", b"notempty"), symlink(b"localetc", b"/etc"), file(b"/localetc/emptied"))
    assert (root / "etc/emptied").read_bytes() == b""


@pytest.mark.parametrize(
    ("before", "target", "name"),
    [
        pytest.param(
            directory(b"breakouts") + symlink(b"breakouts/d1", b"../../etc"),
            b"/breakouts/d1/passwd",
            "breakouts/mypasswd",
            id="HardlinkRelative",
        ),
        pytest.param(
            directory(b"breakouts") + directory(b"downandout") + symlink(b"breakouts/d1", b"../downandout/../../etc"),
            b"/breakouts/d1/passwd",
            "breakouts/mypasswd",
            id="HardlinkDownAndOut",
        ),
        pytest.param(symlink(b"localetc", b"/etc"), b"/localetc/passwd", "localpasswd", id="HardlinkAbsolute"),
        pytest.param(
            symlink(b"localetc", b"../../../../../../../etc"),
            b"/localetc/passwd",
            "localpasswd",
            id="HardlinkRelativeLong",
        ),
        pytest.param(
            directory(b"upandout") + symlink(b"localetc", b"upandout/../../../etc"),
            b"/localetc/passwd",
            "localpasswd",
            id="HardlinkRelativeUpAndOut",
        ),
        pytest.param(b"", b"../../../../../etc/passwd", "localpasswd", id="HardlinkDirectRelative"),
        pytest.param(b"", b"/etc/passwd", "localpasswd", id="HardlinkDirectAbsolute"),
        pytest.param(
            symlink(b"localetc/sub/..", b"/etc/") + directory(b"x"),
            b"/etc/passwd",
            "x/../localetc/localpasswd",
            id="SymlinkParentRelative",
        ),
        pytest.param(directory(b"localetc/"), b"/etc/passwd", "localetc/localpasswd", id="SymlinkSlashEnded"),
    ],
)
def test_hard_links(root: Path, before: bytes, target: bytes, name: str) -> None:
    """Hardlink* and SymlinkParentRelative, SymlinkSlashEnded; TA-04."""
    unpack(root, ETC, PASSWD, before, hard_link(name.encode(), target))
    found = name if not (root / "localetc").is_symlink() else name.replace("x/../localetc", "etc")
    assert same(root, found, "etc/passwd")


@pytest.mark.parametrize("missing", [b"upandout/../../../etc", b"nowhere/../etc"])
def test_hard_link_through_a_link_that_passes_nothing(root: Path, missing: bytes) -> None:
    """HardlinkRelativeUpAndOut: a link may pass a directory that is not there only when something is made in it."""
    with pytest.raises(InvalidLayer, match="not there"):
        unpack(root, ETC, PASSWD, symlink(b"localetc", missing), hard_link(b"h", b"localetc/passwd"))


@pytest.mark.parametrize("name", [b"..", b"", b"../x", b"/..", b".", b"/", b"a/.."])
def test_symlink_in_place_of_the_root_or_its_parent(root: Path, name: bytes) -> None:
    """SymlinkParentDirectory, SymlinkEmptyFilename: refused, where others leave them out in silence."""
    with pytest.raises(InvalidLayer):
        unpack(root, ETC, PASSWD, symlink(name, b"/etc/"))


@pytest.mark.parametrize("target", ["/etc", "../../etc", "etc"])
def test_symlink_overrides_directory(root: Path, target: str) -> None:
    """SymlinkOverrideDirectory, SymlinkOverrideDirectoryRelative."""
    base(root)
    (root / "localetc").mkdir()
    (root / "localetc/old").write_text("old")
    unpack(root, symlink(b"localetc", target.encode()), hard_link(b"/localetc/localpasswd", b"/etc/passwd"))
    assert same(root, "etc/localpasswd", "etc/passwd")
    assert os.readlink(root / "localetc") == target
    assert not (root / "etc/old").exists()


def test_symlink_override_path(root: Path) -> None:
    """SymlinkOverridePath: a link that replaces a directory which is open already."""
    unpack(root, ETC, directory(b"d"), file(b"d/one", b"1"), symlink(b"d", b"etc"), file(b"d/two", b"2"))
    assert sorted(os.listdir(root / "etc")) == ["two"]


@pytest.mark.parametrize("target", ["/etc", "etc"])
def test_directory_overrides_symlink(root: Path, target: str) -> None:
    """DirectoryOverrideSymlink, TA-14: the directory replaces the link, and what it led to stays."""
    base(root, ("localetc", target))
    unpack(root, directory(b"/localetc/"), hard_link(b"/localetc/localpasswd", b"/etc/passwd"))
    assert not (root / "localetc").is_symlink()
    assert same(root, "localetc/localpasswd", "etc/passwd")
    assert sorted(os.listdir(root / "etc")) == ["passwd", "whitedout"]


def test_directory_overrides_symlink_and_hard_link(root: Path) -> None:
    """DirectoryOverrideSymlinkAndHardlink."""
    base(root, ("localetc", "etc"))
    os.link(root / "etc/passwd", root / "localetc/localpasswd")
    unpack(root, directory(b"/localetc/"), file(b"/localetc/localpasswd", b"different"))
    assert (root / "localetc/localpasswd").read_text() == "different"
    assert (root / "etc/localpasswd").read_text() == "inside"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b".wh...", id="WhiteoutRootParent"),
        pytest.param(b"etc/.wh...", id="WhiteoutParent"),
        pytest.param(b".wh..", id="WhiteoutRoot"),
        pytest.param(b"etc/.wh..", id="WhiteoutCurrentDirectory"),
        pytest.param(b".wh.", id="TA-17 in the root"),
        pytest.param(b"etc/.wh.", id="TA-17"),
    ],
)
def test_whiteouts_of_no_name(root: Path, name: bytes) -> None:
    """WhiteoutRootParent, WhiteoutParent, WhiteoutRoot, WhiteoutCurrentDirectory, TA-17: an error, nothing removed."""
    base(root)
    with pytest.raises(InvalidLayer, match="whiteout"):
        unpack(root, file(name))
    assert sorted(os.listdir(root / "etc")) == ["passwd", "whitedout"]


def test_whiteout_symlink(root: Path) -> None:
    """WhiteoutSymlink: the link goes, not what it leads to."""
    base(root, ("localetc", "/etc"))
    unpack(root, file(b".wh.localetc"))
    assert (root / "etc/passwd").read_text() == "inside"
    assert not os.path.lexists(root / "localetc")


def test_whiteout_symlink_path(root: Path) -> None:
    """WhiteoutSymlinkPath: through a link, inside the root."""
    base(root, ("localetc", "/etc"))
    unpack(root, file(b"localetc/.wh.whitedout"))
    assert sorted(os.listdir(root / "etc")) == ["passwd"]


def test_whiteout_directory_name(root: Path) -> None:
    """WhiteoutDirectoryName: only the last part of a name can be a whiteout."""
    base(root, ("localetc", "/etc"))
    unpack(root, file(b".wh.etc/somefile", b"non-empty"))
    assert (root / "etc/passwd").read_text() == "inside"
    assert (root / ".wh.etc/somefile").read_text() == "non-empty"


def test_whiteout_dead_symlink_parent(root: Path) -> None:
    """WhiteoutDeadSymlinkParent: nothing happens, and nothing is made."""
    base(root, ("localetc", "/dne"))
    unpack(root, file(b"localetc/.wh.etc"))
    assert sorted(os.listdir(root)) == ["etc", "localetc"]
    assert (root / "etc/passwd").read_text() == "inside"


def test_whiteout_relative_path(root: Path) -> None:
    """WhiteoutRelativePath."""
    base(root)
    unpack(root, file(b"dne/../.wh.etc"))
    assert os.listdir(root) == []


@pytest.mark.parametrize("target", [b"outside", b"/outside", b"../../outside", b"../../../outside"])
def test_whiteout_through_a_link_out_of_the_root(root: Path, target: bytes) -> None:
    """TA-01, whiteout variant."""
    (root / "x").symlink_to(os.fsdecode(target))
    unpack(root, file(b"x/.wh.secret"), file(b"x/.wh..wh..opq"), file(b"x/folder/.wh.file"))


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../etc/passwd"])
def test_hard_link_to_symlink(root: Path, target: str) -> None:
    """HardlinkSymlinkRelative, HardlinkSymlinkAbsolute: the link itself gets another name."""
    unpack(root, ETC, PASSWD, symlink(b"passwdlink", target.encode()), hard_link(b"localpasswd", b"/passwdlink"))
    assert same(root, "localpasswd", "passwdlink")
    assert os.readlink(root / "localpasswd") == target


def test_hard_link_to_symlink_before_its_target(root: Path) -> None:
    """HardlinkSymlinkBeforeCreateTarget."""
    unpack(
        root,
        ETC,
        symlink(b"localpasswd", b"/etc/passwd"),
        hard_link(b"localpasswd-dup", b"localpasswd"),
        file(b"/etc/passwd", b"after"),
    )
    assert os.readlink(root / "localpasswd-dup") == "/etc/passwd"


def test_hard_link_to_symlink_changes_no_mode(root: Path, tmp_path: Path) -> None:
    """HardlinkSymlinkChmod: with the name of a file outside, and a link to another."""
    outside = os.fsencode(tmp_path / "outside" / "secret")
    other = os.fsencode(tmp_path / "outside" / "passwd")
    unpack(root, symlink(other, outside), hard_link(b"sketchylink", other, mode=0o777))
    assert (root / "sketchylink").is_symlink()


@pytest.mark.parametrize("two_steps", [False, True])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("target", ["{outside}", "../../outside", "/outside", "../../../../../../../../{outside}"])
def test_symlink_then_something_through_it(
    root: Path, tmp_path: Path, target: str, lower: bool, two_steps: bool
) -> None:
    """TA-01: every type as the second entry; the link, of one step or two, from the same or a lower layer."""
    target = target.format(outside=tmp_path / "outside")
    name = "y" if two_steps else "x"
    links = symlink(b"x", b"y") + symlink(b"y", target.encode()) if two_steps else symlink(b"x", target.encode())
    if lower:
        (root / name).symlink_to(target)
        if two_steps:
            (root / "x").symlink_to("y")
    second = (
        file(b"x/p", b"evil")
        + file(b"x/secret", b"evil")
        + directory(b"x/folder", 0o777)
        + directory(b"x/new", 0o777)
        + symlink(b"x/link", b"p")
        + hard_link(b"x/passwd", b"x/p")
        + block(b"x/fifo", b"6")
    )
    unpack(root, b"" if lower else links, second)
    inside = [place for place, _, files in os.walk(root) if "p" in files]
    assert len(inside) == 1


def test_symlink_to_itself(root: Path) -> None:
    with pytest.raises(InvalidLayer, match="links"):
        unpack(root, symlink(b"x", b"x"), file(b"x/p"))
    with pytest.raises(InvalidLayer, match="links"):
        unpack(root, symlink(b"y", b"z/q"), symlink(b"z", b"y"), file(b"y/p"))


@pytest.mark.parametrize("target", ["/{outside}/secret", "../../outside/secret", "{outside}/secret", "../outside/link"])
def test_hard_link_to_something_outside(root: Path, tmp_path: Path, target: str) -> None:
    """TA-04: targets are relative to the root; what is not there is an error."""
    target = target.format(outside=tmp_path / "outside")
    with pytest.raises(InvalidLayer, match="not there"):
        unpack(root, hard_link(b"h", target.encode()))
    with pytest.raises(InvalidLayer, match="not there"):
        unpack(root, symlink(b"x", os.fsencode(tmp_path / "outside")), hard_link(b"h", b"x/secret"))


def test_hard_link_targets_are_relative_to_the_root(root: Path) -> None:
    """TA-04."""
    unpack(root, file(b"f", b"1"), directory(b"d"), hard_link(b"d/h3", b"f"))
    assert same(root, "d/h3", "f")


@pytest.mark.parametrize(
    ("name", "found"), [(b"/etc/a", "etc/a"), (b"b/../c", "c"), (b"./g", "g"), (b"//x///y", "x/y"), (b"/./z", "z")]
)
def test_names_made_relative(root: Path, name: bytes, found: str) -> None:
    """TA-02."""
    unpack(root, file(name, b"1"))
    assert (root / found).read_bytes() == b"1"


@pytest.mark.parametrize("name", [b"../d", b"e/../../f", b"/../x", b"..", b"a/../.."])
@pytest.mark.parametrize("by_pax", [False, True])
def test_names_that_lead_out(root: Path, name: bytes, by_pax: bool) -> None:
    """TA-02: an error."""
    entry = pax([(b"path", name)]) + file(b"x", b"1") if by_pax else file(name, b"1")
    with pytest.raises(InvalidLayer, match="out of the root"):
        unpack(root, entry)
    with pytest.raises(InvalidLayer):
        unpack(root, directory(name))
    with pytest.raises(InvalidLayer):
        unpack(root, file(name + b"/.wh.x"))


def test_replaced_not_written_through(root: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """TA-10: hard link, symbolic link and mode 000 under the name of a file."""
    outside = tmp_path_factory.mktemp("other")
    (outside / "f").write_text("f")
    os.link(outside / "f", root / "f")
    (root / "g").symlink_to(tmp_path / "outside" / "secret")
    (root / "m").write_text("m")
    (root / "m").chmod(0)
    unpack(root, *(file(name, b"new") for name in (b"f", b"g", b"m")))
    assert [(root / name).read_text() for name in "fgm"] == ["new"] * 3
    assert not (root / "g").is_symlink()
    assert (outside / "f").read_text() == "f"


def test_link_swapped_in_by_another_process(root: Path, tmp_path: Path) -> None:
    """A directory on the way becomes a link out of the root, and a directory again, all the time."""
    outside = tmp_path / "outside"
    (root / "d").mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                os.rename(root / "d", root / "aside")
                os.symlink(outside, root / "d")
                os.unlink(root / "d")
                os.rename(root / "aside", root / "d")
            except OSError:
                continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(10):
            try:
                unpack(root, *(file(b"d/%d" % number, b"evil") + file(b"%d" % number) for number in range(50)))
            except (OSError, InvalidLayer):
                continue
    finally:
        stop.set()
        thread.join()
