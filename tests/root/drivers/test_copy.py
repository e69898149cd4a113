"""The copy driver."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowstore import _faults
from cowstore.driver import Driver, NoOptions
from cowstore.drivers.copy import Copy, shares_blocks
from cowstore.errors import DriverUnavailable, OutOfSpace, Unsupported
from cowstore.trees import _same, compare
from tests.root.drivers.ground import file_system_at, mounted, tmpfs_at, told
from tests.trees_oracle import apply, differences, edits, populate, read

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Copy]:
    (tmp_path / "copy").mkdir()
    driver = Copy(str(tmp_path / "copy"), NoOptions())
    yield driver
    driver.close()


def tree(driver: Copy, id: int) -> Path:
    return Path(driver.directory, str(id), "fs")


def test_every_verb_can_be_repeated(driver: Copy) -> None:
    for _ in range(2):
        driver.create(1, None, None)
    populate(str(tree(driver, 1)))
    for _ in range(2):
        driver.seal(1)
        driver.create(2, 1, None)
    (tree(driver, 2) / "kept").touch()
    driver.create(2, 1, None)
    assert (tree(driver, 2) / "kept").exists()
    for _ in range(2):
        driver.remove(2)
        driver.remove(1)
    assert list(driver.held()) == []
    assert os.listdir(driver.directory) == []


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(edits, max_size=10), st.lists(edits, max_size=10))
def test_random_edits(before: list[Any], after: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        driver = Copy(directory, NoOptions())
        driver.create(1, None, None)
        populate(str(tree(driver, 1)))
        for edit in before:
            apply(str(tree(driver, 1)), edit)
        driver.create(2, 1, None)
        assert told(driver, 2, 1) == []
        for edit in after:
            apply(str(tree(driver, 2)), edit)
        old, new = read(str(tree(driver, 1))), read(str(tree(driver, 2)))
        assert told(driver, 2, 1) == differences(old, new)
        assert [(change.path, str(change.kind)) for change in Driver.changes(driver, 2, 1)] == differences(old, new)
        assert told(driver, 2, None) == differences(None, new)
        driver.close()


def test_devices_owners_capabilities_and_acls(driver: Copy) -> None:
    """TA-23: what the order of calls loses elsewhere."""
    driver.create(1, None, None)
    root = tree(driver, 1)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block", stat.S_IFBLK | 0o600, os.makedev(259, 1048575))
    os.mknod(root / "whiteout", stat.S_IFCHR | 0o600, 0)
    (root / "suid").write_text("x")
    os.chown(root / "suid", 2_100_000_000, 2_100_000_001)
    (root / "suid").chmod(0o6755)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(root / "suid", "security.capability", capability)
    os.setxattr(root / "suid", "trusted.k", b"v")
    subprocess.run(["chattr", "+A", str(root / "suid")], check=False, capture_output=True)
    driver.create(2, 1, None)
    assert differences(read(str(root)), read(str(tree(driver, 2)))) == []
    assert os.getxattr(tree(driver, 2) / "suid", "security.capability") == capability
    assert told(driver, 2, 1) == []


def test_a_size_is_refused(driver: Copy) -> None:
    with pytest.raises(Unsupported):
        driver.create(1, None, 1 << 20)
    assert list(driver.held()) == []


def test_no_room(tmp_path: Path) -> None:
    """What was copied so far is given back at once."""
    with tmpfs_at(tmp_path / "small", "size=8m") as path:
        driver = Copy(str(path), NoOptions())
        driver.create(1, None, None)
        (tree(driver, 1) / "big").write_bytes(os.urandom(5 << 20))
        with pytest.raises(OutOfSpace) as caught:
            driver.create(2, 1, None)
        assert caught.value.what == "data"
        assert os.listdir(path) == ["1"]
        assert os.statvfs(path).f_bavail * 4096 > 2 << 20
        driver.close()


@pytest.mark.parametrize("number", range(7))
def test_killed_between_any_two_steps(driver: Copy, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    driver.create(1, None, None)
    populate(str(tree(driver, 1)))
    points: list[str] = []

    class KilledError(BaseException):
        pass

    def kill(name: str) -> None:
        points.append(name)
        if len(points) > number:
            raise KilledError

    monkeypatch.setattr(_faults, "hook", kill)
    # A killed process cleans nothing up.
    monkeypatch.setattr(driver, "give_up", lambda _new: None)
    try:
        driver.create(2, 1, None)
        driver.remove(2)
    except KilledError:
        pass
    else:
        pytest.fail(f"only {len(points)} points: {points}")
    monkeypatch.setattr(_faults, "hook", None)
    driver.create(2, 1, None)
    assert told(driver, 2, 1) == []
    driver.remove(2)
    assert list(driver.held()) == [1]
    assert list(driver.leftovers()) == []


def test_only_what_was_touched_is_read(driver: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """BE-03 (moby#10161): one walk, and no content of what was not touched since the copy."""
    driver.create(1, None, None)
    for number in range(50):
        (tree(driver, 1) / f"f{number}").write_text("same")
    driver.create(2, 1, None)
    compared: list[str] = []

    def counted(lower: int, upper: int, name: str, mode: int) -> bool:
        compared.append(name)
        return _same.same_file(lower, upper, name, mode)

    monkeypatch.setattr(compare, "same_file", counted)
    assert told(driver, 2, 1) == []
    untouched = len(compared)
    assert untouched < 50  # those of the clock's last tick
    found = (tree(driver, 2) / "f7").stat()
    (tree(driver, 2) / "f7").write_text("SAME")
    os.utime(tree(driver, 2) / "f7", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert told(driver, 2, 1) == [("f7", "modified")]
    assert "f7" in compared


def test_a_record_from_elsewhere_is_not_believed(driver: Copy) -> None:
    """A store that was copied or restored has new change times everywhere, the record's file included."""
    driver.create(1, None, None)
    (tree(driver, 1) / "f").write_text("same")
    driver.create(2, 1, None)
    record = Path(driver.directory, "2/copied")
    content = record.read_text()
    assert len(content.split()) == 2
    for false in ("", "x y", "1", f"0 {1 << 62}", "5 4", "1000 2000"):
        record.write_text(false)
        assert told(driver, 2, 1) == []
        (tree(driver, 2) / "f").write_text("SAME")
        assert ("f", "modified") in told(driver, 2, 1)
        (tree(driver, 2) / "f").write_text("same")
        os.utime(tree(driver, 2) / "f", ns=(0, (tree(driver, 1) / "f").stat().st_mtime_ns))
    record.unlink()
    assert told(driver, 2, 1) == []


def test_mounts(driver: Copy, tmp_path: Path) -> None:
    driver.create(1, None, None)
    with mounted(driver, 1, tmp_path / "m") as root:
        Path(root, "f").touch()
    driver.seal(1)
    with mounted(driver, 1, tmp_path / "m", read_only=True) as root, pytest.raises(OSError, match="Read-only"):
        Path(root, "g").touch()


@pytest.mark.parametrize(("kind", "shares"), [("xfs", True), ("btrfs", True), ("ext4", False)])
def test_blocks_are_shared_where_they_can_be(tmp_path: Path, kind: str, shares: bool) -> None:
    with file_system_at(tmp_path / "fs", kind, "-q" if kind != "xfs" else "-f") as path:
        Copy.probe(str(path), NoOptions())
        before = set(os.listdir(path))
        driver = Copy(str(path), NoOptions())
        assert shares_blocks(str(path)) is shares
        assert driver.status().details["reflinks"] == ("yes" if shares else "no")
        assert set(os.listdir(path)) == before
        driver.create(1, None, None)
        (tree(driver, 1) / "big").write_bytes(os.urandom(32 << 20))
        with (tree(driver, 1) / "sparse").open("wb") as file:
            file.truncate(1 << 34)
        driver.seal(1)
        free = driver.status().free_bytes
        driver.create(2, 1, None)
        driver.seal(2)
        used = free - driver.status().free_bytes
        assert (used < 16 << 20) is shares
        assert told(driver, 2, 1) == []
        with (tree(driver, 2) / "big").open("r+b") as file:
            file.write(b"x")
        assert told(driver, 2, 1) == [("big", "modified")]
        driver.close()


def test_probe(tmp_path: Path) -> None:
    Copy.probe(str(tmp_path), NoOptions())
    assert os.listdir(tmp_path) == []
    with tmpfs_at(tmp_path / "ro", "ro") as path, pytest.raises(DriverUnavailable, match="read-only"):
        Copy.probe(str(path), NoOptions())


def test_examine(driver: Copy) -> None:
    driver.create(1, None, None)
    driver.create(2, 1, None)
    assert list(driver.examine(1, None, True)) == []
    assert list(driver.examine(2, 1, False)) == []
    os.rename(tree(driver, 1), Path(driver.directory, "1/elsewhere"))
    assert [problem.kind for problem in driver.examine(1, None, True)] == ["row-without-data"]
