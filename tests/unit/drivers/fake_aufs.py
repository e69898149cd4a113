"""AUFS' answers as they were recorded on Linux 6.1 with aufs 20240701, given by a fake of the mount calls.

It stands below :mod:`cowstore.mounting`, in place of the functions of ``_linux.mount``: so what is tested is all that
runs on a kernel that has AUFS, up to the calls themselves.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from cowstore import mounting
from cowstore._linux import aufs as abi
from cowstore._linux.fd import Descriptor, open_

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    import pytest

PERMISSIONS = {"rw", "ro", "rr"}


class Context:
    """What fsopen(2) or fspick(2) gives."""

    def __init__(self, stack: list[tuple[bytes, str]] | None = None) -> None:
        self.options: list[tuple[bytes, bytes]] = []
        self.stack = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def close(self) -> None:
        return


class Tree(Descriptor):
    """A detached mount, which ends with its descriptor."""

    __slots__ = ("kernel",)

    kernel: FakeAufs

    def close(self) -> None:
        if not self.closed:
            self.kernel.end(self.fileno())
        super().close()


class FakeAufs:
    """The kernel.

    :ivar max_branches: what it was built for. :ivar sysfs: its directory of live mounts. :ivar calls: how many branches
        and options each call had, and its length as data of mount(2). :ivar refuses: an errno for every mount.
    """

    def __init__(self, where: Path, max_branches: int = 127) -> None:
        self.sysfs = where
        self.max_branches = max_branches
        self.calls: list[tuple[int, int, int]] = []
        self.refuses = 0
        self.drops_last = False
        self._mounts: dict[int, list[tuple[bytes, str]]] = {}
        self._number = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it in place of the kernel."""
        for name, function in (
            ("fsopen", self.fsopen),
            ("fspick", self.fspick),
            ("fsconfig_set_string", self.set_string),
            ("fsconfig_set_flag", self.set_flag),
            ("fsconfig_create", self.create),
            ("fsconfig_reconfigure", self.reconfigure),
            ("fsmount", self.fsmount),
        ):
            patch.setattr(mounting, name, function)
        patch.setattr("cowstore.mounting.aufs.ROOT", str(self.sysfs))
        patch.setattr(abi, "brinfo", self.brinfo)

    def stacks(self) -> list[list[tuple[bytes, str]]]:
        """Return the branches of the live mounts."""
        return list(self._mounts.values())

    # The calls.

    def fsopen(self, fstype: str | bytes) -> Context:
        assert os.fsdecode(fstype) == "aufs"
        return Context()

    def fspick(self, tree: Descriptor, path: bytes, flags: int) -> Context:
        return Context(self._mounts[tree.fileno()])

    def set_string(self, context: Context, name: bytes, value: bytes) -> None:
        if name == b"source":
            return
        if len(value) > 255:
            raise OSError(errno.EINVAL, "a value of more than 255 bytes")
        context.options.append((name, value))

    def set_flag(self, context: Context, name: bytes) -> None:
        context.options.append((name, b""))

    def create(self, context: Context) -> None:
        context.stack = []
        self._apply(context)
        if self.drops_last:
            del context.stack[-1]

    def reconfigure(self, context: Context) -> None:
        self._apply(context)

    def fsmount(self, context: Context, attrs: int) -> Descriptor:
        assert context.stack
        tree = Tree(open_(context.stack[0][0], os.O_PATH | os.O_DIRECTORY).detach())
        tree.kernel = self
        self._mounts[tree.fileno()] = context.stack
        self._show()
        return tree

    def brinfo(self, fd: int) -> list[tuple[bytes, int]]:
        """Answer the ioctl of the mount that *fd* is in; here it is the topmost branch's own directory."""
        here = os.fstat(fd)
        for stack in reversed(self._mounts.values()):
            if os.path.samestat(os.stat(stack[0][0]), here):
                return [(escaped(path), bits(permission)) for path, permission in stack]
        raise OSError(errno.ENOTTY, "no AUFS")

    def end(self, number: int) -> None:
        """Forget a mount."""
        self._mounts.pop(number, None)
        self._show()

    # What it does with them.

    def _apply(self, context: Context) -> None:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        assert context.stack is not None
        length = len(b",".join(name + b"=" + value if value else name for name, value in context.options))
        branches = sum(value.count(b":") + 1 for name, value in context.options if name in {b"br", b"append"})
        entries = branches + sum(name not in {b"br", b"append"} for name, _value in context.options)
        self.calls.append((branches, entries, length))
        if entries > 84:
            raise OSError(errno.E2BIG, "or the kernel crashes")
        if length > 4095:
            raise OSError(errno.EINVAL, "cut off")
        for name, value in context.options:
            self._option(context.stack, name, value)
        self._show()

    def _option(self, stack: list[tuple[bytes, str]], name: bytes, value: bytes) -> None:
        if name in {b"dio", b"dirperm1", b"acl"}:
            return
        if name == b"xino":
            if os.path.lexists(value):
                raise FileExistsError(errno.EEXIST, "the table is there already")
            if not os.path.isdir(os.path.dirname(value)):
                raise FileNotFoundError(errno.ENOENT, "no directory for the table")
            return
        if name == b"br":
            # Several may follow each other, but a remount would put them on top.
            if self._live(stack):
                raise OSError(errno.EINVAL, "br in a remount")
            for one in value.split(b":"):
                self._branch(stack, one)
        elif name == b"append" and stack:
            self._branch(stack, value)
        else:
            raise OSError(errno.EINVAL, "unknown option, or br not first")

    def _live(self, stack: list[tuple[bytes, str]]) -> bool:
        return any(one is stack for one in self._mounts.values())

    def _branch(self, stack: list[tuple[bytes, str]], value: bytes) -> None:
        path, _, permission = value.partition(b"=")
        if b":" in value or b"," in value or not path:
            raise OSError(errno.EINVAL, "lookup failed")
        real = os.path.realpath(path)
        if not os.path.isdir(real):
            raise OSError(errno.EINVAL, "lookup failed")
        if any(real == there or (real + b"/").startswith(there + b"/") for there, _ in stack):
            raise OSError(errno.EINVAL, "duplicated or overlapped")
        if len(stack) >= self.max_branches:
            raise OSError(errno.ENOSPC, "number of branches exceeded")
        word, *attributes = os.fsdecode(permission).split("+")
        # A wrong permission or attribute is no error.
        kind = word if word in PERMISSIONS else "ro"
        stack.append((real, "+".join([kind, *(one for one in attributes if one in {"wh", "icex"})])))

    def _show(self) -> None:
        import shutil

        shutil.rmtree(self.sysfs, ignore_errors=True)
        for number in range(len(self._mounts)):
            # What is in it nobody may read.
            (self.sysfs / f"si_{number:016x}").mkdir(parents=True)
        self.sysfs.mkdir(exist_ok=True, parents=True)


def escaped(path: bytes) -> bytes:
    """Write a path as in /proc/mounts."""
    return b"".join(b"\\%03o" % byte if byte in b" \\\t\n" else bytes([byte]) for byte in path)


def bits(permission: str) -> int:
    """Return a permission as the ioctl tells it."""
    kind, *attributes = permission.split("+")
    kinds = {"rw": abi.PERM_RW, "ro": abi.PERM_RO, "rr": abi.PERM_RR}
    return kinds[kind] | (abi.ATTR_WH if "wh" in attributes else 0)
