"""A driver as a process sees it that may not mount: what needs a mount, or further ids, is done in the helper."""

from __future__ import annotations

import os

from cowstore._rootless.jobs import Job
from cowstore._rootless.verbs import driver_of, remotely
from cowstore.driver import Driver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from cowstore.errors import CowstoreError
    from cowstore.model import Mount
    from cowstore.results import Change, DriverStatus, FindingKind, Problem, Usage


class Confined(Driver):
    """Stands before another driver, and speaks for it.

    What the driver can do without a mount it does here. What the kernel then refuses, since a file belongs to one of
    the user's further ids, is done in the helper, where these are his.
    """

    def __init__(self, inner: Driver) -> None:
        """Stand before *inner*, and own it."""
        super().__init__(inner.directory, inner.options, volatile=inner.volatile, read_only=inner.read_only)
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]  # of the class, for every driver but this
        self.capabilities = inner.capabilities

    @property
    def is_plain(self) -> bool:
        """Whether every tree can be had without a mount."""
        return type(self.inner).tree_directory is not Driver.tree_directory

    @classmethod
    def probe(cls, directory: str, options: object) -> None:
        """Never asked: see :func:`cowstore._rootless.verbs.probe`."""
        raise NotImplementedError

    def _job(self, function: str, *arguments: object) -> Job:
        return Job(module="", function=function, arguments=(driver_of(self.inner), *arguments))

    def _try(self, function: str, *arguments: Any) -> Any:
        """Do it here; in the helper, if the kernel refuses."""
        direct = getattr(self.inner, function)
        try:
            return direct(*arguments)
        except PermissionError as error:
            refused = error
        try:
            return remotely(self._job(function, *arguments), None)
        except Exception as error:
            raise error from refused

    def _elsewhere(self, function: str, *arguments: Any) -> Any:
        """Do it in the helper; here only where it needs no mount and there is no namespace to be had."""
        direct = getattr(self.inner, function)
        return remotely(self._job(function, *arguments), (lambda: direct(*arguments)) if self.is_plain else None)

    def explain(self, id: int, error: OSError, root_fd: int, tried: str) -> CowstoreError | None:
        """Say what a refused write means."""
        return self.inner.explain(id, error, root_fd, tried)

    # What needs a mount.

    def changes(self, id: int, base: int | None) -> Iterator[Change]:
        """Tell what differs."""
        yield from self._elsewhere("changes", id, base)

    def examine(self, id: int, parent: int | None, sealed: bool) -> Iterator[Problem]:
        """Name what is wrong."""
        yield from self._elsewhere("examine", id, parent, sealed)

    def adopt(self, id: int, path: str) -> None:
        """Make *id* whose tree is a directory."""
        if not self.inner.capabilities.adopts:
            self.inner.adopt(id, path)
            return
        self._elsewhere("adopt", id, path)

    # What may meet files of further ids.

    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        """Make *id*; a copy that is to keep its owners is made where these can be given."""
        if parent is not None and not self.capabilities.instant_create:
            from cowstore._rootless.ids import has_ranges

            if has_ranges():
                self._elsewhere("create", id, parent, size_bytes)
                return
        self._try("create", id, parent, size_bytes)

    def seal(self, id: int) -> None:
        """Make *id* immutable."""
        self._try("seal", id)

    def remove(self, id: int) -> None:
        """Take away all of *id*."""
        self._try("remove", id)

    def usage(self, id: int) -> Usage:
        """Measure *id*."""
        usage: Usage = self._try("usage", id)
        return usage

    def resize(self, id: int, size_bytes: int) -> None:
        """Change the most that *id* may hold."""
        self._try("resize", id, size_bytes)

    def repair(self, id: int, parent: int | None, sealed: bool, kind: FindingKind) -> bool:
        """Mend what was named."""
        return bool(self._try("repair", id, parent, sealed, kind))

    def remove_leftover(self, path: str) -> None:
        """Take away a leftover."""
        self._try("remove_leftover", path)

    # What needs neither.

    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        """Describe the mounts, for whoever may make them."""
        if volatile:
            return self.inner.mounts(id, read_only, volatile=True)
        return self.inner.mounts(id, read_only)

    def release(self, id: int) -> None:
        """Give up what the mounts needed."""
        self.inner.release(id)

    def size_of(self, id: int) -> int | None:
        """Return the size that a copy must have."""
        return self.inner.size_of(id)

    def held(self) -> Iterable[int]:
        """List the ids."""
        return self.inner.held()

    def holds(self, id: int) -> bool:
        """Tell whether there is anything of *id*."""
        return self.inner.holds(id)

    def status(self) -> DriverStatus:
        """Tell the room that is left."""
        return self.inner.status()

    def drain(self) -> None:
        """Wait for space."""
        self.inner.drain()

    def close(self) -> None:
        """Let go."""
        self.inner.close()

    def destroy(self) -> None:
        """Take away what was made beyond the ids."""
        self.inner.destroy()

    def before_unmount(self, id: int, root_fd: int) -> None:
        """Do what must happen while the tree is mounted."""
        self.inner.before_unmount(id, root_fd)

    def unpack_directory(self, id: int) -> str | None:
        """Name a directory to write a fresh tree into."""
        return self.inner.unpack_directory(id)

    def tree_directory(self, id: int) -> str | None:
        """Name the directory that is the tree."""
        return self.inner.tree_directory(id)

    def leftovers(self) -> Iterator[str]:
        """List what belongs to no id."""
        return self.inner.leftovers()


def is_confined() -> bool:
    """Tell whether this process is an ordinary user's, and may not mount."""
    from cowstore._rootless.namespace import may_mount

    return os.geteuid() != 0 and not may_mount()
