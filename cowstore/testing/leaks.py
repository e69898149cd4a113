"""What a test must leave as it found it: mounts, loop devices, device-mapper devices, cgroups, descriptors, processes.

Only what can be told to belong to the watched directories, or to this process, is looked at, so that tests may run
beside other users of the machine.
"""

from __future__ import annotations

import gc
import os
import time
from contextlib import suppress
from dataclasses import dataclass, fields

from cowstore._linux.procfs import children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is held right now.

    :ivar mounts: mount points below the watched directories. :ivar loops: loop devices whose file is
        there. :ivar mapped: device-mapper devices on those loop devices. :ivar cgroups: empty groups of the runtime's.
    :ivar descriptors: open files of this process. :ivar processes: its descendants.
    """

    mounts: frozenset[str]
    loops: frozenset[str]
    mapped: frozenset[str]
    cgroups: frozenset[str]
    descriptors: frozenset[str]
    processes: frozenset[str]

    def since(self, before: Held) -> list[str]:
        """List what is held now and was not *before*."""
        return [
            f"{field.name}: {item}"
            for field in fields(self)
            for item in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


def held(directories: Sequence[str]) -> Held:
    """Look at the machine.

    :param directories: absolute paths; mounts and loop devices elsewhere are somebody else's.
    """
    roots = tuple(os.path.realpath(directory) for directory in directories)
    loops = _loops(roots)
    return Held(
        mounts=_mounts(roots),
        loops=frozenset(loops.values()),
        mapped=_mapped(frozenset(loops)),
        cgroups=_cgroups(),
        descriptors=_descriptors(),
        processes=frozenset(_descendants(os.getpid())),
    )


def assert_nothing_since(before: Held, directories: Sequence[str]) -> None:
    """Compare with *before*, giving the kernel a moment to finish what it does behind the caller's back.

    :raises AssertionError: naming what is left.
    """
    gc.collect()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        left = held(directories).since(before)
        if not left:
            return
        if time.monotonic() > deadline:
            raise AssertionError("left behind:\n  " + "\n  ".join(left))
        time.sleep(0.02)


def mounts_below(root: str, *, table: str = "/proc/self/mountinfo") -> list[str]:
    """List the mount points at and below *root* in a mount table."""
    top = os.path.realpath(root)
    return sorted(point for point, _ in _table(table) if _is_below(point, top))


def _table(path: str) -> list[tuple[str, str]]:
    with open(path, "rb") as table:
        lines = table.read().splitlines()
    pairs = []
    for line in lines:
        words = line.split(b" ")
        pairs.append((_unescape(words[4]), _unescape(words[words.index(b"-", 6) + 2])))
    return pairs


def _unescape(word: bytes) -> str:
    parts = word.split(b"\\")
    octal = [bytes([int(part[:3], 8)]) + part[3:] for part in parts[1:]]
    return os.fsdecode(b"".join([parts[0], *octal]))


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _mounts(roots: tuple[str, ...]) -> frozenset[str]:
    found = [point for point, _ in _table("/proc/self/mountinfo") if any(_is_below(point, root) for root in roots)]
    return frozenset(f"{point} ({found.count(point)} times)" if found.count(point) > 1 else point for point in found)


def _loops(roots: tuple[str, ...]) -> dict[str, str]:
    loops = {}
    for name in os.listdir("/sys/block") if os.path.isdir("/sys/block") else ():
        # A loop device may go while it is looked at.
        with suppress(OSError), open(f"/sys/block/{name}/loop/backing_file", "rb") as file:
            backing = os.fsdecode(file.read().rstrip(b"\n"))
            if any(_is_below(backing.removesuffix(" (deleted)"), root) for root in roots):
                loops[name] = f"{name} on {backing}"
    return loops


def _mapped(loops: frozenset[str]) -> frozenset[str]:
    names = set()
    if not os.path.isdir("/sys/block"):
        return frozenset()
    for device in os.listdir("/sys/block"):
        with suppress(OSError):
            if device.startswith("dm-") and _stands_on(device, loops):
                with open(f"/sys/block/{device}/dm/name", encoding="utf-8") as file:
                    names.add(file.read().strip())
    return frozenset(names)


def _stands_on(device: str, loops: frozenset[str]) -> bool:
    below = os.listdir(f"/sys/block/{device}/slaves")
    return any(name in loops or (name.startswith("dm-") and _stands_on(name, loops)) for name in below)


def _cgroups() -> frozenset[str]:
    """List groups of the runtime's that nobody is in: somebody else's run has processes."""
    found: set[str] = set()
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            path = os.path.join(directory, name)
            with suppress(OSError):
                if name.startswith("cowstore-run-"):
                    with open(f"{path}/cgroup.procs", "rb") as processes:
                        if not processes.read():
                            found.add(path)
    return frozenset(found)


def _descriptors() -> frozenset[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        # The descriptor of the listing itself is gone by now.
        with suppress(OSError):
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
    return frozenset(found)


def _descendants(pid: int) -> list[str]:
    found = []
    with suppress(OSError):
        for child in children(pid):
            found.append(f"{child} {_command(child)}")
            found += _descendants(child)
    return found


def _command(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        return os.fsdecode(file.read().replace(b"\0", b" ").strip())
    return "?"
