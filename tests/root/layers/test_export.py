"""What is in a layer, entry by entry: containerd's TestDiffTar cases, and the rules they come from."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import cowstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cowstore.store import Store

    Edit = Callable[[Path], object]


@pytest.fixture(params=["overlay", "copy"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with cowstore.open(tmp_path / "store", driver=request.param) as made:
        yield made


def layer(store: Store, below: Edit, edit: Edit) -> list[tarfile.TarInfo]:
    """Make two layers, and list the entries of the upper one."""
    for key, parent, work in (("below", None, below), ("upper", "below", edit)):
        store.prepare("active", parent)
        with store.mounted("active") as root:
            work(root)
        store.commit(key, "active")
    archive = io.BytesIO()
    store.export_layer("upper", archive)
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        return tar.getmembers()


def names(members: list[tarfile.TarInfo]) -> list[str]:
    return [member.name + ("/" if member.isdir() else "") for member in members]


def etc(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/hosts").write_text("127.0.0.1 localhost")
    (root / "etc/profile").write_text("PATH=/usr/bin")


def test_empty_diff(store: Store) -> None:
    """EmptyDiff: an archive without an entry, which is its end and nothing else."""
    assert layer(store, etc, lambda _root: None) == []


def test_parents_are_included(store: Store) -> None:
    """ParentInclusion: the directories above a change, with their modes, each once, before it."""

    def edit(root: Path) -> None:
        (root / "etc").chmod(0o700)
        (root / "etc/hosts").write_text("changed")
        (root / "etc/new/deep").mkdir(parents=True)

    found = layer(store, etc, edit)
    assert names(found) == ["etc/", "etc/hosts", "etc/new/", "etc/new/deep/"]
    assert found[0].mode == 0o700


def test_hard_link_to_an_unchanged_file(store: Store) -> None:
    """HardlinkParentInclusion: a file of the layer below gets another name: its own is in the layer too."""
    found = layer(store, etc, lambda root: os.link(root / "etc/hosts", root / "etc/a-link"))
    assert names(found) == ["etc/", "etc/a-link", "etc/hosts"]
    assert sorted((member.type, member.linkname) for member in found[1:]) == [
        (tarfile.REGTYPE, ""),
        (tarfile.LNKTYPE, "etc/a-link"),
    ]


def test_hard_link_into_an_updated_parent(store: Store) -> None:
    """HardlinkUpdatedParent: where the directory of the old name changes as well."""

    def edit(root: Path) -> None:
        (root / "home").mkdir()
        os.link(root / "etc/hosts", root / "home/hosts")
        (root / "etc").chmod(0o750)

    found = {member.name: member for member in layer(store, etc, edit)}
    assert list(found) == ["etc", "etc/hosts", "home", "home/hosts"]
    assert found["etc"].mode == 0o750
    assert found["home/hosts"].linkname == "etc/hosts"


def test_mode_of_a_directory_alone(store: Store) -> None:
    """UpdateDirectoryPermission: the directory, and nothing that is in it."""
    found = layer(store, etc, lambda root: (root / "etc").chmod(0o777))
    assert [(name, member.mode) for name, member in zip(names(found), found, strict=True)] == [("etc/", 0o777)]


def test_whiteouts_include_parents(store: Store) -> None:
    """WhiteoutIncludesParents: a removal comes with its directory, and before all that is made."""
    found = layer(store, etc, lambda root: (root / "etc/hosts").unlink())
    assert names(found) == ["etc/.wh.hosts", "etc/"]
    assert (found[0].type, found[0].size) == (tarfile.REGTYPE, 0)


def test_whiteout_of_a_parent(store: Store) -> None:
    """WhiteoutParentRemoval: one whiteout for the directory, none for what was in it."""

    def edit(root: Path) -> None:
        (root / "etc/hosts").unlink()
        (root / "etc/profile").unlink()
        (root / "etc").rmdir()

    assert names(layer(store, etc, edit)) == [".wh.etc"]


def test_sockets_are_left_out(store: Store) -> None:
    """IgnoreSockets: and counted. An archive has no type for them, and nobody listens on a copy."""

    def edit(root: Path) -> None:
        here = os.getcwd()
        os.chdir(root)  # a socket's path is short
        try:
            with suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as made:
                made.bind("server")
        finally:
            os.chdir(here)
        (root / "file").write_text("x")

    assert names(layer(store, etc, edit)) == ["file"]
    assert dict(store.export_layer("upper", io.BytesIO()).skipped) == {"sockets": 1}


def test_a_file_linked_and_written_again(store: Store) -> None:
    """TarWithHardLinkAndRebase: names of one file stay names of one file when they are moved together."""

    def below(root: Path) -> None:
        (root / "old").mkdir()
        (root / "old/one").write_text("linked")
        os.link(root / "old/one", root / "old/two")

    def edit(root: Path) -> None:
        (root / "new").mkdir()
        (root / "new/one").write_text("linked")
        os.link(root / "new/one", root / "new/two")
        for name in ("one", "two"):
            (root / "old" / name).unlink()
        (root / "old").rmdir()

    found = layer(store, below, edit)
    assert names(found) == [".wh.old", "new/", "new/one", "new/two"]
    assert found[3].linkname == "new/one"


def test_label_of_a_host_is_not_exported(store: Store) -> None:
    """UntarSelinuxLabel: what a host's own policy says of a file is not the file's, and comes from no archive."""

    def edit(root: Path) -> None:
        (root / "file").write_text("x")
        with suppress(OSError):
            os.setxattr(root / "file", "security.selinux", b"system_u:object_r:tmp_t:s0\0")
        os.setxattr(root / "file", "user.kept", b"kept")

    (found,) = layer(store, etc, edit)
    assert [key for key in found.pax_headers if "xattr" in key] == ["SCHILY.xattr.user.kept"]


def test_whiteouts_within_whiteouts(store: Store) -> None:
    """NestedOverlayWhiteouts, OverlayTarUntar: removed and made again at two levels, over there and back."""

    def below(root: Path) -> None:
        (root / "a/b").mkdir(parents=True)
        (root / "a/b/old").write_text("old")
        (root / "a/gone").write_text("old")

    def edit(root: Path) -> None:
        (root / "a/b/old").unlink()
        (root / "a/b").rmdir()
        (root / "a/gone").unlink()
        (root / "a").rmdir()
        (root / "a/b").mkdir(parents=True)
        (root / "a/b/new").write_text("new")

    layer(store, below, edit)
    archive = io.BytesIO()
    store.export_layer("upper", archive)
    archive.seek(0)
    store.prepare("applied", "below")
    store.apply_layer("applied", archive)
    assert list(store.changes("applied", "upper")) == []
    with store.mounted("applied") as root:
        assert os.listdir(root / "a") == ["b"]
        assert os.listdir(root / "a/b") == ["new"]
