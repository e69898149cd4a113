"""Quota groups: used only when a size is asked for, and none left behind.

Quota belongs to a whole file system and slows it, so it is turned on by the driver only in its own loop file, or where
an option says so. A deleted subvolume's group can go only once the kernel has cleaned the subvolume; until then its
number stands as an empty file in ``.qgroups``. With each removal a few of those are tried, the oldest first; all of
them when the store is opened and closed, and when somebody waits for the space.

Source: btrfs-quota(8), ``linux/btrfs_tree.h`` (``btrfs_qgroup_*_item``).
"""

from __future__ import annotations

import errno
import os
import struct
from collections import deque

from cowstore._linux import _btrfs_abi as abi
from cowstore._linux import btrfs
from cowstore._linux.fd import Descriptor, open_
from cowstore.errors import Unsupported

PENDING = ".qgroups"

_STATUS = struct.Struct("<4Q")
_INFO = struct.Struct("<5Q")
_LIMIT = struct.Struct("<5Q")
_STATUS_SIMPLE = 8
# A rescan is under way, or is wanted.
_STATUS_WRONG = 2 | 4
_LIMIT_RFER = 1
# How many groups of earlier removals each removal tries: more than it adds, so that they cannot pile up.
_TURNS = 8
# ENOTCONN: quota is off. ENOENT: there is no such group, or no quota tree.
_NOTHING = frozenset({errno.ENOTCONN, errno.ENOENT, errno.EINVAL})


# How long the end of a store waits for the kernel to clean it.
_END_SECONDS = 60.0


class Quota:
    """The quota groups of one file system, as far as the driver's own subvolumes go.

    :param home_fd: the directory that has those subvolumes in it.
    """

    def __init__(self, home_fd: int, *, may_enable: bool, may_use: bool) -> None:
        self._home = home_fd
        self._may_enable = may_enable
        self._may_use = may_use
        self._waiting: deque[int] = deque()

    def _item(self, kind: int, qgroup_id: int) -> bytes | None:
        """Return an item of the quota tree; None where there is none, or no such tree."""
        if not self._may_use:
            return None
        try:
            items = btrfs.tree_search(
                self._home, abi.QUOTA_TREE_OBJECTID, objectid=(0, 0), type=(kind, kind), offset=(qgroup_id, qgroup_id)
            )
            return next((data for _objectid, _type, _offset, data in items), None)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    def enabled(self) -> bool:
        """Tell whether quota groups are on, and may be used here."""
        return self._item(abi.QGROUP_STATUS_KEY, 0) is not None

    def possible(self) -> bool:
        """Tell whether sizes can be limited, now or after :meth:`require`."""
        return self._may_use and (self._may_enable or self.enabled())

    def kind(self) -> str:
        """Tell which sort of quota is on, for people."""
        item = self._item(abi.QGROUP_STATUS_KEY, 0)
        if item is None:
            return "off"
        return "simple" if _STATUS.unpack_from(item)[2] & _STATUS_SIMPLE else "on"

    def require(self, size_bytes: int) -> None:
        """Make sure that sizes can be limited, turning quota on where that is allowed.

        :raises Unsupported: it is off, and must stay so.
        """
        if self.enabled():
            return
        if not (self._may_use and self._may_enable):
            raise Unsupported(
                f"cannot limit a snapshot to {size_bytes} bytes: quota groups are off on this Btrfs, and the driver "
                "turns them on only when told to; give the option quota=yes, or `btrfs quota enable` yourself",
                feature="size_limits",
            )
        try:
            btrfs.quota_ctl(self._home, btrfs.QuotaCommand.ENABLE)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        # Until what is there has been counted, no limit would hold.
        btrfs.quota_rescan_wait(self._home)

    def limit(self, subvol_id: int, size_bytes: int | None) -> None:
        """Limit what the subvolume of that number may refer to; None takes the limit away."""
        btrfs.qgroup_limit(self._home, subvol_id, max_rfer=size_bytes)

    def drop_inherited_limit(self, subvol_id: int) -> None:
        """Take away the limit that the kernel gave a snapshot because its source has one."""
        item = self._item(abi.QGROUP_LIMIT_KEY, subvol_id)
        if item is not None and _LIMIT.unpack_from(item)[0]:
            self.limit(subvol_id, None)

    def limit_of(self, subvol_id: int) -> int | None:
        """Return the limit of a subvolume in bytes; None where it has none."""
        item = self._item(abi.QGROUP_LIMIT_KEY, subvol_id)
        if item is None:
            return None
        flags, max_rfer, *_rest = _LIMIT.unpack_from(item)
        return max_rfer if flags & _LIMIT_RFER and max_rfer != abi.U64_MAX else None

    def used(self, subvol_id: int) -> tuple[int, int] | None:
        """Return the bytes a subvolume refers to, and those that it alone does, as of the last commit.

        :returns: None where they are not counted, or the kernel says that the counts are wrong until a rescan.
        """
        status = self._item(abi.QGROUP_STATUS_KEY, 0)
        if status is None or _STATUS.unpack_from(status)[2] & _STATUS_WRONG:
            return None
        item = self._item(abi.QGROUP_INFO_KEY, subvol_id)
        if item is None:
            return None
        _generation, refers, _packed, exclusive, _packed_exclusive = _INFO.unpack_from(item)
        return refers, exclusive

    def groups(self) -> list[int]:
        """List the numbers of all subvolumes' groups."""
        kind = (abi.QGROUP_INFO_KEY, abi.QGROUP_INFO_KEY)
        try:
            items = btrfs.tree_search(
                self._home, abi.QUOTA_TREE_OBJECTID, objectid=(0, 0), type=kind, offset=(0, 2**48 - 1)
            )
            return [offset for _objectid, _type, offset, _data in items]
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return []

    def forget(self, subvol_ids: list[int]) -> None:
        """Let the groups of deleted subvolumes go once the kernel has cleaned those, and a few now whose turn it is.

        A note that finds no room is kept in memory alone: what was removed stays removed.
        """
        if not self.enabled():
            return
        turns = min(_TURNS, len(self._waiting))
        # The kernel has not begun to clean these.
        self._waiting.extend(subvol_ids)
        try:
            left = [one for one in self._taken(turns) if not self._settle(one)]
            self._waiting.extend(left)
            self._note(subvol_ids)
        except OSError as error:
            from cowstore._log import logger

            logger(__name__).warning("no note is made of the quota groups %s, which must wait: %s", subvol_ids, error)

    def _taken(self, count: int) -> list[int]:
        """Take some of those that wait, the oldest first; no other thread has them then."""
        taken: list[int] = []
        try:
            while len(taken) < count:
                taken.append(self._waiting.popleft())
        except IndexError:
            # Another thread was faster.
            pass
        return taken

    def retry(self) -> int:
        """Destroy all groups whose turn had not come, those too that other processes noted; returns how many wait."""
        waiting = {*self.noted(), *self._taken(len(self._waiting))}
        left = [one for one in sorted(waiting) if not self._settle(one)]
        self._waiting.extend(left)
        return len(left)

    def tidy(self) -> None:
        """As :meth:`retry`; what fails is left for the next time."""
        try:
            self.retry()
        except OSError as error:
            from cowstore._log import logger

            logger(__name__).warning("the quota groups of removed snapshots stay for now: %s", error)

    def sweep(self) -> None:
        """Destroy all groups of subvolumes that are no more, noted or not: only where all of them are the driver's."""
        kind = (abi.ROOT_ITEM_KEY, abi.ROOT_ITEM_KEY)
        there = {number for number, *_rest in btrfs.tree_search(self._home, abi.ROOT_TREE_OBJECTID, type=kind)}
        for one in self.groups():
            if one not in there:
                self._destroy(one)

    def see_off(self, subvol_ids: list[int]) -> None:
        """Wait until subvolumes are cleaned whose home is gone, and all notes with it; destroy their groups."""
        from cowstore.drivers.btrfs.cleaning import Cleaning

        cleaning = Cleaning(self._home)
        cleaning.add(subvol_ids)
        cleaning.wait(_END_SECONDS)
        left = [one for one in subvol_ids if not self._destroy(one)]
        if left:
            from cowstore._log import logger

            logger(__name__).warning("the quota groups %s stay; `btrfs qgroup clear-stale` takes them away", left)

    def _settle(self, subvol_id: int) -> bool:
        """Destroy one group and what was noted of it; False when its turn has not come."""
        if not self._destroy(subvol_id):
            return False
        try:
            with self._pending(make=False) as pending:
                os.unlink(str(subvol_id), dir_fd=pending.fileno())
        except FileNotFoundError:
            # It was never noted, or another process has done the same.
            pass
        return True

    def _note(self, subvol_ids: list[int]) -> None:
        """Note on disk that these groups wait, for whoever comes after this process."""
        if not subvol_ids:
            return
        with self._pending(make=True) as pending:
            for one in subvol_ids:
                open_(str(one), os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=pending).close()

    def noted(self) -> list[int]:
        """List the numbers of the groups that are noted on disk as waiting."""
        try:
            with self._pending(make=False) as pending:
                return [int(name) for name in os.listdir(pending.fileno()) if name.isdigit()]
        except FileNotFoundError:
            return []

    def _pending(self, *, make: bool) -> Descriptor:
        if make:
            try:
                os.mkdir(PENDING, 0o700, dir_fd=self._home)
            except FileExistsError:
                pass
        return open_(PENDING, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._home)

    def _destroy(self, subvol_id: int) -> bool:
        """Destroy one group; False when the kernel is not done with its subvolume."""
        if self._is_there(subvol_id):
            # Not every kernel refuses by itself, and the group of one that is being cleaned is still counted in.
            return False
        try:
            btrfs.qgroup_create(self._home, subvol_id, create=False)
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno not in _NOTHING:
                raise
        return True

    def _is_there(self, subvol_id: int) -> bool:
        """Tell whether a subvolume is there, or deleted and not yet cleaned."""
        kind = (abi.ROOT_ITEM_KEY, abi.ROOT_ITEM_KEY)
        items = btrfs.tree_search(self._home, abi.ROOT_TREE_OBJECTID, objectid=(subvol_id, subvol_id), type=kind)
        return next(items, None) is not None
