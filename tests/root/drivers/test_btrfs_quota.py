"""Limits and quota groups of the Btrfs driver, what they do not count, and what is removed."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import btrfs, files
from cowstore._linux.fd import open_
from cowstore.drivers.btrfs import Btrfs, sending, subvolumes
from cowstore.drivers.btrfs.quota import PENDING, Quota
from cowstore.errors import Busy, OutOfSpace, Unsupported
from cowstore.testing._expect import counted as calls_of
from tests.root.btrfs_ground import directory
from tests.root.drivers.btrfs_fixtures import driver, elsewhere, make, on_btrfs, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["driver", "elsewhere", "on_btrfs"]


def home(driver: Btrfs) -> int:
    return driver._home


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[object]:
    """Let each call of a function note its first argument in the list that is returned."""
    calls: list[object] = []
    function = getattr(owner, name)

    def noting(*of: object) -> object:
        calls.append(of[0] if of else None)
        return function(*of)

    monkeypatch.setattr(owner, name, noting)
    return calls


def fill(path: str, size_bytes: int) -> None:
    with open(path, "wb") as file:
        file.write(os.urandom(size_bytes))


def test_a_size_is_enforced_and_can_be_changed(driver: Btrfs) -> None:
    make(driver, 1, None, {"a": b"x" * 100_000})
    driver.create(2, 1, 8 << 20)
    with tree(driver, 2) as root:
        with pytest.raises(OSError) as caught:
            fill(f"{root}/big", 16 << 20)
        assert caught.value.errno == errno.EDQUOT
        driver.resize(2, 64 << 20)
        fill(f"{root}/big", 16 << 20)


def test_a_limit_of_the_parent_is_not_the_childs(driver: Btrfs) -> None:
    driver.create(1, None, 8 << 20)
    driver.seal(1)
    driver.create(2, 1, None)
    with tree(driver, 2) as root:
        fill(f"{root}/big", 16 << 20)


def test_quota_groups_do_not_pile_up(driver: Btrfs) -> None:
    """BT-03."""
    make(driver, 1, None, {"a": b"x"})
    driver.create(2, 1, 8 << 20)
    driver.remove(2)
    driver.drain()
    before = driver._quota.groups()
    for id in range(3, 53):
        driver.create(id, 1, 8 << 20 if id % 2 else None)
    for id in range(3, 53):
        driver.remove(id)
    driver.drain()
    assert driver._quota.groups() == before
    assert not driver._ground.names().count(PENDING) or os.listdir(f"/proc/self/fd/{home(driver)}/{PENDING}") == []


def test_a_group_that_cannot_go_yet_goes_later(driver: Btrfs) -> None:
    """BT-03: a group of a subvolume that is not cleaned is tried again."""
    driver.create(1, None, 8 << 20)
    with directory(f"/proc/self/fd/{home(driver)}/1") as fd:
        number = btrfs.ino_lookup(fd)[0]
    # As if it were deleted and not cleaned.
    driver._quota.forget([number])
    assert os.listdir(f"/proc/self/fd/{home(driver)}/{PENDING}") == [str(number)]
    assert driver._quota.retry() == 1
    driver.remove(1)
    driver.drain()
    assert driver._quota.retry() == 0
    assert number not in driver._quota.groups()


def test_the_usage_of_a_limited_snapshot_is_its_groups(driver: Btrfs) -> None:
    make(driver, 1, None, {"a": b"x" * 500_000})
    driver.create(2, 1, 64 << 20)
    with tree(driver, 2) as root:
        fill(f"{root}/b", 1 << 20)
    assert 1 << 20 <= driver.usage(2).size_bytes <= (1 << 20) + (256 << 10)


@pytest.mark.parametrize("admin", [False, True])
def test_the_administrators_quota_is_left_alone(on_btrfs: Path, admin: bool) -> None:
    """BT-04: neither turned on without being told to, nor off."""
    with directory(on_btrfs) as fd:
        if admin:
            btrfs.quota_ctl(fd, btrfs.QuotaCommand.ENABLE)
            btrfs.quota_rescan_wait(fd)
        made = Btrfs(str(on_btrfs), Btrfs.Options())
        assert made.capabilities.size_limits is admin
        if admin:
            made.create(1, None, 8 << 20)
        else:
            with pytest.raises(Unsupported, match="quota=yes"):
                made.create(1, None, 8 << 20)
            assert made.held() == []
            made.create(1, None, None)
        assert made._quota.kind() == ("on" if admin else "off")
        made.remove(1)
        made.drain()
        assert made._quota.kind() == ("on" if admin else "off")
        made.destroy()
        if admin:
            btrfs.quota_ctl(fd, btrfs.QuotaCommand.DISABLE)


def test_quota_can_be_forbidden(elsewhere: Path) -> None:
    made = Btrfs(str(elsewhere), Btrfs.Options(pool_size_bytes=1 << 30, quota=False))
    with pytest.raises(Unsupported):
        made.create(1, None, 8 << 20)
    assert made.held() == []
    made.destroy()


# What a limit does not count.


def outgrow(driver: Btrfs, id: int) -> None:
    """Let a snapshot with a limit of 8 MiB hold 32 MiB, in a subvolume made inside, which has a group of its own."""
    driver.create(id, None, 8 << 20)
    with tree(driver, id) as root:
        with directory(root) as fd:
            btrfs.subvol_create(fd, "s")
        fill(f"{root}/s/big", 32 << 20)


def test_a_limit_does_not_count_subvolumes_made_inside(driver: Btrfs) -> None:
    """The written rule: usage counts them, and a commit keeps them, although they come to more than the limit."""
    outgrow(driver, 1)
    assert driver.usage(1).size_bytes >= 32 << 20
    driver.seal(1)
    driver.create(2, 1, None)
    with tree(driver, 2) as root:
        assert os.stat(f"{root}/s/big").st_size == 32 << 20
        # The child has no limit, and what it has from its parent is in no limit's way.
        fill(f"{root}/more", 16 << 20)


def test_what_clones_have_brought_over_the_limit_is_sealed(driver: Btrfs) -> None:
    """The kernel refuses even to seal such a snapshot, since that takes a block of metadata."""
    outgrow(driver, 1)
    with tree(driver, 1) as root:
        with open(f"{root}/s/big", "rb") as source, open(f"{root}/clone", "wb") as target:
            files.ficlone(target.fileno(), source.fileno())
        btrfs.sync(home(driver))
        with pytest.raises(OSError) as caught:
            os.mkdir(f"{root}/d")
        assert caught.value.errno == errno.EDQUOT
        with directory(root) as fd, pytest.raises(OSError) as caught:
            btrfs.subvol_setflags(fd, btrfs.SubvolFlag.RDONLY)
        assert caught.value.errno == errno.EDQUOT
    driver.seal(1)
    with tree(driver, 1, read_only=True) as root:
        assert sorted(os.listdir(root)) == ["clone", "s"]
        assert os.stat(f"{root}/s").st_ino != btrfs.FIRST_FREE_OBJECTID
        assert os.stat(f"{root}/s/big").st_size == os.stat(f"{root}/clone").st_size == 32 << 20


def quota_on(driver: Btrfs) -> None:
    driver._quota.require(8 << 20)


def test_a_limit_that_the_administrator_set_is_met_by_a_verb(driver: Btrfs) -> None:
    """The kernel answers EDQUOT to the making of a subvolume, and to a seal; each says so, and works afterwards."""
    quota_on(driver)
    make(driver, 1, None, {"a": b""})
    driver.create(2, 1, None)
    above = 1 << 48 | 7
    with driver._open(2) as root:
        mine = subvolumes.subvol_id(root.fileno())
        btrfs.qgroup_create(home(driver), above)
        for number in (mine, subvolumes.subvol_id(home(driver))):
            btrfs.qgroup_assign(home(driver), number, above)
        btrfs.quota_rescan_wait(home(driver))
        btrfs.qgroup_limit(home(driver), above, max_rfer=4096)
        try:
            verbs: list[Callable[[], None]] = [lambda: driver.create(3, 1, None), lambda: driver.seal(2)]
            for verb in verbs:
                with pytest.raises(OutOfSpace, match="not of this store's making") as caught:
                    verb()
                assert caught.value.what == "quota"
                assert isinstance(caught.value.__cause__, OSError)
                assert caught.value.__cause__.errno == errno.EDQUOT
        finally:
            # Not through the home, which is over the limit itself.
            with driver._open(1) as other:
                btrfs.qgroup_limit(other, above)
            for number in (mine, subvolumes.subvol_id(home(driver))):
                btrfs.qgroup_assign(home(driver), number, above, assign=False)
            btrfs.qgroup_create(home(driver), above, create=False)
    driver.create(3, 1, None)
    driver.seal(2)


# Groups of what is removed.


def cleaned(fd: int) -> None:
    """Wait until the kernel has cleaned all deleted subvolumes."""
    deadline = time.monotonic() + 60
    while btrfs.dead_roots(fd):
        assert time.monotonic() < deadline
        btrfs.sync(fd)
        time.sleep(0.01)
    btrfs.sync(fd)


def pending(driver: Btrfs) -> list[str]:
    """Numbers of the groups that are noted as waiting."""
    if PENDING not in driver._ground.names():
        return []
    return os.listdir(f"/proc/self/fd/{home(driver)}/{PENDING}")


def test_without_anybody_cleaning_up_no_group_stays(on_btrfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BT-03: fifty rounds of making, asking and removing, then another process; nobody calls cleanup."""
    made = Btrfs(str(on_btrfs), Btrfs.Options(quota=True))
    make(made, 1, None, {"a": b"x"})
    quota_on(made)
    before = made._quota.groups()
    tries = counted(monkeypatch, made._quota, "_destroy")
    lists = counted(monkeypatch, made._quota, "noted")
    for id in range(2, 52):
        made.create(id, 1, 8 << 20 if id % 2 else None)
        with tree(made, id) as root, open(f"{root}/b", "w"):
            pass
        assert [change.path for change in made.changes(id, 1) if change.path != "."] == ["b"]
        if id % 10 == 0:
            made.usage(id)
        made.remove(id)
    # Each removal, of a snapshot or of a momentary one, tries eight others at most, and lists nothing.
    assert len(tries) <= 8 * (50 + 50 + 5)
    assert lists == []
    monkeypatch.undo()
    with open_(".", os.O_RDONLY, dir_fd=home(made)) as fd:
        made.close()
        cleaned(fd.fileno())
    again = Btrfs(str(on_btrfs), Btrfs.Options(quota=True))
    assert again._quota.groups() == before
    assert pending(again) == []
    again.remove(1)
    again.destroy()


def test_the_groups_of_earlier_removals_go_with_the_next(driver: Btrfs) -> None:
    quota_on(driver)
    for id in range(1, 11):
        driver.create(id, None, None)
    for id in range(1, 10):
        driver.remove(id)
    cleaned(home(driver))
    driver.remove(10)
    assert len(driver._quota._waiting) <= 10 - 8
    assert len(pending(driver)) == len(driver._quota._waiting)


def test_a_removal_does_not_fail_for_want_of_room_for_a_note(driver: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    quota_on(driver)
    driver.create(1, None, None)

    def full(subvol_ids: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(driver._quota, "_note", full)
        driver.remove(1)
    assert driver.held() == []
    assert len(driver._quota._waiting) == 1
    driver.drain()
    assert len(driver._quota._waiting) == 0


def test_groups_that_nobody_noted_go_with_the_cleanup_of_a_pool(elsewhere: Path) -> None:
    """As a kill between a deletion and its note leaves them; in a file system of one's own all dead ones are own."""
    made = Btrfs(str(elsewhere), Btrfs.Options(pool_size_bytes=1 << 30))
    quota_on(made)
    before = made._quota.groups()
    btrfs.qgroup_create(made._home, 1 << 48 | 5)
    made.create(1, None, None)
    subvolumes.destroy(made._home, b"1")
    made.drain()
    assert made._quota.groups() == before
    btrfs.qgroup_create(made._home, 1 << 48 | 5, create=False)
    made.destroy()


def test_a_store_that_is_destroyed_leaves_no_group(on_btrfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BT-03, BT-12: neither its home's own, nor one that was still waiting, nor one of a snapshot inside."""
    with directory(on_btrfs) as fd:
        btrfs.quota_ctl(fd, btrfs.QuotaCommand.ENABLE)
        btrfs.quota_rescan_wait(fd)
        before = Quota(fd, may_enable=False, may_use=True).groups()
        made = Btrfs(str(on_btrfs), Btrfs.Options())
        make(made, 1, None, {"a": b"x"})
        made.create(2, 1, None)
        made.remove(2)
        mine = set(made._quota.groups()) - set(before)
        assert len(mine) == 3
        asked: list[int] = []
        destroy = btrfs.qgroup_create

        def noting(fd: int, number: int, *, create: bool = True) -> None:
            asked.append(number)
            destroy(fd, number, create=create)

        monkeypatch.setattr(btrfs, "qgroup_create", noting)
        made.destroy()
        # Newer kernels do it by themselves; here nobody relies on that.
        assert set(asked) == mine
        assert Quota(fd, may_enable=False, may_use=True).groups() == before
        btrfs.quota_ctl(fd, btrfs.QuotaCommand.DISABLE)


# Waiting.


def test_what_is_not_cleaned_is_said(driver: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is still open keeps a removed snapshot: cleanup is not done, and says so."""
    make(driver, 1, None, {"a": b"x"})
    monkeypatch.setattr("cowstore.drivers.btrfs.driver._DRAIN_SECONDS", 0.2)
    with tree(driver, 1, read_only=True) as root, open(f"{root}/a"):
        driver.remove(1)
        with pytest.raises(Busy, match="has not cleaned 1 of their subvolumes"):
            driver.drain()
    monkeypatch.undo()
    driver.drain()


def test_usage_does_not_trust_a_group_before_all_is_cleaned(
    driver: Btrfs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    quota_on(driver)
    make(driver, 1, None, {"a": b"x"})
    make(driver, 2, None, {"a": b"x"})
    driver.create(3, 1, 64 << 20)
    with tree(driver, 3) as root:
        fill(f"{root}/b", 1 << 20)
    by_group = driver.usage(3)
    monkeypatch.setattr("cowstore.drivers.btrfs.driver._USAGE_SECONDS", 0.1)
    with tree(driver, 2, read_only=True) as root, open(f"{root}/a"):
        driver.remove(2)
        by_files = driver.usage(3)
    assert "not counted right yet" in caplog.text
    # The file, and the root directory, which takes nothing: the group counts metadata too.
    assert by_files.size_bytes == 1 << 20 < by_group.size_bytes
    assert by_files.inodes == by_group.inodes


def test_with_nothing_to_wait_for_one_sync_serves(driver: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    quota_on(driver)
    make(driver, 1, None, {"a": b"x"})
    driver.create(2, 1, 8 << 20)
    driver.drain()
    syncs = counted(monkeypatch, btrfs, "sync")
    driver.usage(2)
    assert len(syncs) == 1


# The work of asking.

FILES = 500, 50_000


@pytest.mark.parametrize("quota", [False, True])
def test_the_work_of_usage_does_not_grow_with_the_base(elsewhere: Path, quota: bool) -> None:
    """BT-11: ten edits over 500 files and over 50 000, asked ten times, while it is written to and once committed.

    Neither the calls made nor the commands in the kernel's stream are more.
    """
    made = Btrfs(str(elsewhere), Btrfs.Options(pool_size_bytes=2 << 30, quota=quota or None))
    if quota:
        quota_on(made)
    for base, files_count in enumerate(FILES, 1):
        made.create(base, None, None)
        with tree(made, base) as root:
            for number in range(files_count):
                if number % 100 == 0:
                    os.mkdir(f"{root}/{number // 100}")
                os.close(os.open(f"{root}/{number // 100}/{number % 100}", os.O_CREAT | os.O_WRONLY))
        made.seal(base)
        made.create(10 * base, base, None)
        with tree(made, 10 * base) as root:
            for number in range(10):
                fill(f"{root}/{number % 5}/{number}", 10_000)
    for sealed in (False, True):
        if sealed:
            made.seal(10)
            made.seal(20)
        assert made.usage(10).inodes == made.usage(20).inodes
        small, large = (calls_of(lambda id=id: [made.usage(id) for _ in range(10)])[1] for id in (10, 20))  # type: ignore[misc]
        assert large <= 1.3 * small, (sealed, small, large)
        # Ten answers together cost less than a single call for each file of the base.
        assert large < FILES[1]
    streams = []
    for base in (1, 2):
        with made._open(10 * base) as upper, made._open(base) as lower:
            streams.append(list(sending.difference(upper.fileno(), subvolumes.subvol_id(lower.fileno()))))
    assert len(streams[0]) == len(streams[1])
    for id in (20, 10, 2, 1):
        made.remove(id)
    made.destroy()
