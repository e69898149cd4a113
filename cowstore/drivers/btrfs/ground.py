"""Where the subvolumes lie: in a directory of a Btrfs, as it is, or in :mod:`cowstore.drivers.btrfs.pool`."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod

from cowstore._linux import btrfs, files
from cowstore._linux.fd import Descriptor, open_
from cowstore.errors import StoreMismatch
from cowstore.model import Mount, MountFlag

HOME = "volumes"
"""Name of the subvolume, in the driver's directory, in which all others lie."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Ground(ABC):
    """A directory of a Btrfs in which each id is a subvolume of that name.

    :ivar home: that directory.
    """

    home: Descriptor

    @abstractmethod
    def mount(self, id: int, subvol_id: int, *, read_only: bool) -> Mount:
        """Describe the mount of one subvolume, of nothing else of the file system."""

    @abstractmethod
    def details(self) -> dict[str, str]:
        """Tell what this ground is, for people."""

    def names(self) -> list[str]:
        """List the home."""
        # A descriptor of its own each time: Btrfs fixes at open(2) how much of a directory a reader will see.
        with open_(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.home) as fresh:
            return os.listdir(fresh.fileno())

    def capacity_bytes(self) -> int:
        """Tell the most that could ever be stored here."""
        status = files.statfs(self.home)
        return status.blocks * status.block_size

    def make_room(self) -> None:
        """See to it that there is room for new work, where the ground can grow."""
        return

    def give_back(self) -> None:
        """Give what is free to whatever is below, where that is of use."""
        return

    def unfinished(self) -> list[str]:
        """List paths that an interrupted making of this ground has left."""
        return []

    def close(self) -> None:
        """Let go of it."""
        self.home.close()

    @abstractmethod
    def destroy(self) -> list[int]:
        """Take it away with all that is in it, and nothing else.

        :returns: the numbers of the deleted subvolumes, in a file system that goes on.
        """


def attributes(*, read_only: bool) -> MountFlag:
    """Return the flags of a snapshot's mount."""
    return MountFlag.RDONLY if read_only else MountFlag.NONE


class Directory(Ground):
    """A directory of the administrator's Btrfs. The home is a subvolume, so that nobody's snapshot takes it along."""

    def __init__(self, directory: str, *, read_only: bool) -> None:
        """Open the home, made if need be.

        :raises StoreMismatch: it is there, but no subvolume: the store was copied file by file.
        """
        self._directory = directory
        self._path = os.path.join(directory, HOME)
        if not read_only:
            with open_(directory, _DIRECTORY) as parent:
                try:
                    btrfs.subvol_create(parent, HOME)
                except FileExistsError:
                    pass
                else:
                    os.chmod(HOME, 0o700, dir_fd=parent.fileno())
        self.home = open_(self._path, _DIRECTORY)
        on_btrfs = files.statfs(self.home).type == files.FsMagic.BTRFS
        if not on_btrfs or os.fstat(self.home.fileno()).st_ino != btrfs.FIRST_FREE_OBJECTID:
            self.home.close()
            raise StoreMismatch(
                f"{self._path} is a directory and no Btrfs subvolume: the store was copied or moved by a program that "
                "knows no snapshots; move it back, or make a new one and import",
                expected="a subvolume",
                found="a directory",
            )

    def mount(self, id: int, subvol_id: int, *, read_only: bool) -> Mount:
        source = os.fsencode(os.path.join(self._path, str(id)))
        return Mount(type="bind", source=source, flags=attributes(read_only=read_only))

    def details(self) -> dict[str, str]:
        return {"ground": f"the Btrfs that holds {self._directory}"}

    def destroy(self) -> list[int]:
        from cowstore.drivers.btrfs import subvolumes

        self.close()
        with open_(self._directory, _DIRECTORY) as parent:
            try:
                return subvolumes.destroy(parent.fileno(), HOME.encode())
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return []
