"""Good archives by other hands: what GNU tar, bsdtar and tarfile write, we unpack as it was."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from cowstore.layers.compression import open_stream
from cowstore.layers.extract import Devices, Owners, extract
from tests import tiers
from tests.unit.layers.archives import Node, survey

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with everything that an ordinary user can make."""
    root = tmp_path_factory.mktemp("source")
    rng = random.Random(3)
    place = root
    for depth in range(12):
        place = place / (f"deep{depth}" * (1 + depth % 5))
        place.mkdir()
        for size in (0, 1, 511, 512, 513, 100_000):
            (place / f"file{size}").write_bytes(rng.randbytes(size))
    (root / os.fsdecode(b"\xff\xfe odd \n name")).write_text("odd")
    (root / ("é" * 120)).write_text("long")
    os.link(root / "deep0/file513", root / "link")
    os.link(root / "deep0/file513", place / "link with spaces")
    (root / "sym").symlink_to("deep0/file1")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "dangling").symlink_to("x" * 300)
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"data")
        file.truncate(9 << 20)
    for number, bits in enumerate((0o4755, 0o2711, 0o1644, 0o400, 0o640)):
        (root / f"mode{number}").write_text("mode")
        (root / f"mode{number}").chmod(bits)
        (root / f"dir{number}").mkdir()
        (root / f"dir{number}").chmod(0o2775 if number == 1 else 0o1777 if number == 2 else 0o550)
    try:
        os.setxattr(root / "link", "user.bytes", bytes(range(256)))
        os.setxattr(root / "deep0", "user.dir", b"=\n")
    except OSError:
        pass  # a file system without them; then there are none on either side
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        stamp = 1_500_000_000 + number * 1_234_567_891_011
        os.utime(path, ns=(stamp, stamp), follow_symlinks=False)
    os.utime(root, ns=(10**9 + 1, 10**9 + 1))
    return root


def unpack(archive: Path, root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    owners = Owners.KEEP if os.geteuid() == 0 else Owners.CALLER
    try:
        with archive.open("rb") as file, open_stream(file) as stream:
            extract(stream, fd, owners=owners, devices=Devices.SKIP)
    finally:
        os.close(fd)


def without(tree: dict[str, Node], **fields: object) -> dict[str, Node]:
    from dataclasses import replace

    return {name: replace(node, **fields) for name, node in tree.items()}  # type: ignore[arg-type]


def seconds(tree: dict[str, Node]) -> dict[str, Node]:
    from dataclasses import replace

    return {name: replace(node, mtime_ns=node.mtime_ns // 10**9) for name, node in tree.items()}


@pytest.mark.parametrize("compression", ["", "--gzip", "--bzip2", "--xz", "--zstd"])
def test_gnu_tar_pax(source: Path, root: Path, tmp_path_factory: pytest.TempPathFactory, compression: str) -> None:
    """Everything, to the nanosecond."""
    programs = {"": [], "--gzip": ["gzip"], "--bzip2": ["bzip2"], "--xz": ["xz"], "--zstd": ["zstd"]}[compression]
    tiers.need_program("tar", *programs)
    archive = tmp_path_factory.mktemp("archive") / "a.tar"
    options = ["--format=posix", "-S", "--xattrs", "--xattrs-include=user.*", *([compression] if compression else [])]
    subprocess.run(["tar", *options, "-cf", archive, "-C", source, "."], check=True)
    unpack(archive, root)
    assert survey(root) == survey(source)
    assert (root / "sparse").stat().st_blocks < 1000


@pytest.mark.parametrize("form", ["gnu", "oldgnu"])
def test_gnu_tar_own_formats(source: Path, root: Path, tmp_path_factory: pytest.TempPathFactory, form: str) -> None:
    """Long names, base-256 times before 1970, old sparse files; whole seconds and no attributes."""
    tiers.need_program("tar")
    archive = tmp_path_factory.mktemp("archive") / "a.tar"
    subprocess.run(["tar", f"--format={form}", "-S", "-cf", archive, "-C", source, "."], check=True)
    unpack(archive, root)
    assert without(seconds(survey(root)), xattrs=()) == without(seconds(survey(source)), xattrs=())


@pytest.mark.parametrize("form", ["v7", "ustar"])
def test_gnu_tar_old_formats(source: Path, root: Path, tmp_path_factory: pytest.TempPathFactory, form: str) -> None:
    """What fits in them."""
    tiers.need_program("tar")
    archive = tmp_path_factory.mktemp("archive") / "a.tar"
    names = ["deep0/file1", "deep0/file513", "deep0/file100000", "link", "sym", "mode0", "mode3", "dir2"]
    subprocess.run(["tar", f"--format={form}", "-cf", archive, "--mtime=@7", "-C", source, *names], check=True)
    unpack(archive, root)
    expected, found = survey(source), survey(root)
    for name in names:
        left, right = expected[name], found[name]
        assert (left.mode, left.owner, left.content, left.target) == (
            right.mode,
            right.owner,
            right.content,
            right.target,
        )
        assert right.mtime_ns == 7 * 10**9


@pytest.mark.parametrize("form", ["pax", "gnutar"])
def test_bsdtar(source: Path, root: Path, tmp_path_factory: pytest.TempPathFactory, form: str) -> None:
    """libarchive writes attributes in two spellings, and its gnutar form has whole seconds."""
    tiers.need_program("bsdtar")
    archive = tmp_path_factory.mktemp("archive") / "a.tar"
    # Without a UTF-8 locale bsdtar writes no name that is not ASCII.
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run(["bsdtar", f"--format={form}", "-cf", archive, "-C", source, "."], check=True, env=environment)
    unpack(archive, root)
    if form == "pax":
        assert survey(root) == survey(source)
    else:
        assert without(seconds(survey(root)), xattrs=()) == without(seconds(survey(source)), xattrs=())


def test_tarfile(source: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the standard library writes; it has no attributes, and its times are floats."""
    archive = tmp_path_factory.mktemp("archive") / "a.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as target:
        target.add(source, ".")
    unpack(archive, root)
    assert without(seconds(survey(root)), xattrs=()) == without(seconds(survey(source)), xattrs=())


@pytest.mark.parametrize("form", ["posix", "gnu"])
def test_times_before_1970(root: Path, tmp_path_factory: pytest.TempPathFactory, form: str) -> None:
    """By GNU tar; bsdtar writes -1.5 s as -2.5, and Python tiny ones as 1e-09."""
    tiers.need_program("tar")
    place = tmp_path_factory.mktemp("old")
    for number, stamp in enumerate((-1, -(10**9), -1_500_000_000, -(10**18), 0)):
        (place / f"f{number}").write_text("x")
        os.utime(place / f"f{number}", ns=(stamp, stamp))
    archive = tmp_path_factory.mktemp("archive") / "a.tar"
    subprocess.run(["tar", f"--format={form}", "-cf", archive, "-C", place, "."], check=True)
    unpack(archive, root)
    assert seconds(survey(root)) == seconds(survey(place))
    if form == "posix":
        assert survey(root) == survey(place)


def test_we_and_gnu_tar_unpack_the_same(source: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tiers.need_program("tar")
    place = tmp_path_factory.mktemp("archive")
    archive, theirs = place / "a.tar", place / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "--format=posix", "--xattrs", "-cf", archive, "-C", source, "."], check=True)
    subprocess.run(["tar", "-xpf", archive, "--xattrs", "-C", theirs], check=True)
    unpack(archive, root)
    assert survey(root) == survey(theirs)


def test_git_archive(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """TA-28: its global header is a comment, not a file."""
    tiers.need_program("git")
    repository = tmp_path_factory.mktemp("repository")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "init", "-q", repository], check=True)
    (repository / "file").write_text("content")
    subprocess.run(["git", "-C", repository, "add", "file"], check=True)
    subprocess.run(["git", "-C", repository, *identity, "commit", "-q", "-m", "x"], check=True)
    archive = subprocess.run(["git", "-C", repository, "archive", "HEAD"], check=True, capture_output=True).stdout
    fd = os.open(root, os.O_RDONLY)
    try:
        extract(io.BytesIO(archive), fd, owners=Owners.CALLER)
    finally:
        os.close(fd)
    assert os.listdir(root) == ["file"]
