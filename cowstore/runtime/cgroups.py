"""The groups of processes by which the kernel bounds a container: version 2, version 1, and hosts that have both.

A container with limits gets one group in each hierarchy that a limit needs, below (version 1) or beside (version 2) the
launcher's own. The launcher holds a lock on each, so that the groups of one that was killed are known for what they
are, and removed by the next.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from cowstore._linux.namespaces import CloneFlag, unshare
from cowstore.errors import CowstoreError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.runtime.inside import Inside
    from cowstore.runtime.limits import Limits

PREFIX = "cowstore-run-"
_PERIOD_US = 100_000
_PATIENCE_SECONDS = 2.0


class Hierarchy:
    """One tree of groups, and where in it this process is.

    :ivar version: 1 or 2. :ivar controllers: what it can bound here. :ivar own: directory of this process's group.
    :ivar root: directory of its topmost group.
    """

    __slots__ = ("controllers", "own", "root", "version")

    def __init__(self, version: int, root: str, own: str, controllers: frozenset[str]) -> None:
        self.version = version
        self.root = root
        self.own = own
        self.controllers = controllers


def hierarchies(mountinfo: str = "/proc/self/mountinfo", membership: str = "/proc/self/cgroup") -> list[Hierarchy]:
    """Return the hierarchies that are mounted here."""
    from cowstore._linux.procfs import mountinfo as mounts_of

    with open(membership, encoding="utf-8", errors="surrogateescape") as file:
        parts = [line.rstrip("\n").split(":", 2) for line in file]
    own = {names: path for _, names, path in parts}
    found: list[Hierarchy] = []
    for entry in mounts_of(mountinfo):
        kind = os.fsdecode(entry.fs_type)
        if kind not in {"cgroup", "cgroup2"}:
            continue
        point, top = os.fsdecode(entry.mount_point), os.fsdecode(entry.root)
        if kind == "cgroup2":
            names, controllers = "", _read_words(os.path.join(point, "cgroup.controllers"))
        else:
            options = set(os.fsdecode(entry.super_options).split(","))
            names = next((each for each in own if each and options.issuperset(each.split(","))), "")
            controllers = frozenset(names.split(","))
        if names not in own:
            continue
        path = own[names]
        # Inside a container the mount may begin below the hierarchy's own root.
        inner = path[len(top) :] if top != "/" and path.startswith(top) else path
        directory = os.path.normpath(f"{point}/{inner}")
        if os.path.isdir(directory):
            found.append(Hierarchy(1 if kind == "cgroup" else 2, point, directory, controllers))
    return found


def _read_words(path: str) -> frozenset[str]:
    try:
        with open(path, encoding="ascii") as file:
            return frozenset(file.read().split())
    except OSError:
        return frozenset()


def _write(directory: str, name: str, value: str) -> None:
    fd = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _wanted(limits: Limits) -> Iterator[tuple[str, str, list[tuple[int, str, str, bool]]]]:
    """Yield for each limit its name, its controller, and the files: version, name, value, whether it must be there."""
    if limits.memory_bytes is not None:
        value = str(limits.memory_bytes)
        yield (
            "memory",
            "memory",
            [
                (2, "memory.max", value, True),
                (2, "memory.swap.max", "0", False),
                (1, "memory.limit_in_bytes", value, True),
                (1, "memory.memsw.limit_in_bytes", value, False),
            ],
        )
    if limits.cpus is not None:
        quota = max(1000, round(limits.cpus * _PERIOD_US))
        yield (
            "cpus",
            "cpu",
            [
                (2, "cpu.max", f"{quota} {_PERIOD_US}", True),
                (1, "cpu.cfs_period_us", str(_PERIOD_US), True),
                (1, "cpu.cfs_quota_us", str(quota), True),
            ],
        )
    if limits.pids is not None:
        yield "pids", "pids", [(2, "pids.max", str(limits.pids), True), (1, "pids.max", str(limits.pids), True)]
    if limits.io_weight is not None:
        weight = limits.io_weight
        # Version 1 counts from 10 to 1000, and 100 is usual there too.
        yield "io_weight", "io", [(2, "io.weight", f"default {weight}", True)]
        yield "io_weight", "blkio", [(1, "blkio.weight", str(min(1000, max(10, weight))), True)]


class Groups:
    """The groups of one container, made before it starts and removed when it has ended."""

    def __init__(self, name: str) -> None:
        self.name = PREFIX + name
        self.made: dict[str, Hierarchy] = {}
        self.warnings: list[str] = []
        self._locks: list[int] = []

    def make(self, limits: Limits, found: list[Hierarchy] | None = None) -> None:
        """Make the groups that the limits need, and set the limits.

        :raises Unsupported: this machine lacks the controller of a limit.
        """
        here = hierarchies() if found is None else found
        try:
            done: set[str] = set()
            missed: dict[str, str] = {}
            for limit, controller, files in _wanted(limits):
                try:
                    self._set(here, controller, files)
                    done.add(limit)
                except (OSError, Unsupported) as error:
                    missed.setdefault(limit, str(error))
            for limit, why in missed.items():
                if limit in done:
                    continue
                if not limits.best_effort:
                    raise Unsupported(
                        f"cannot limit {limit}: {why}; or let it be tried only: --limits best-effort", feature=limit
                    )
                self.warnings.append(f"{limit} is not limited: {why}")
        except BaseException:
            self.remove()
            raise

    def make_plain(self, found: list[Hierarchy] | None = None) -> None:
        """Make a group of version 2 without limits, for a program that makes groups itself, where that can be done."""
        here = hierarchies() if found is None else found
        hierarchy = next((each for each in here if each.version == 2), None)
        if hierarchy is None or any(each.version == 2 for each in self.made.values()):
            return
        try:
            _sweep(hierarchy.own)
            directory = os.path.join(hierarchy.own, self.name)
            self._locks.append(_made(directory))
            self.made[directory] = hierarchy
        except (OSError, Unsupported):
            return

    def _set(self, here: list[Hierarchy], controller: str, files: list[tuple[int, str, str, bool]]) -> None:
        hierarchy = next((each for each in here if controller in each.controllers), None)
        if hierarchy is None:
            raise Unsupported(
                f"this machine has no {controller} controller of control groups in use (see /proc/cgroups)"
            )
        directory = self._group(hierarchy, controller)
        for version, name, value, needed in files:
            if version != hierarchy.version:
                continue
            try:
                _write(directory, name, value)
            except FileNotFoundError:
                if needed:
                    raise Unsupported(f"the {controller} controller of this kernel has no {name}") from None
            except OSError:
                if needed:
                    raise

    def _group(self, hierarchy: Hierarchy, controller: str) -> str:
        """Return the container's directory in a hierarchy, made at the first look."""
        parent = hierarchy.own if hierarchy.version == 1 else _parent_v2(hierarchy, controller)
        directory = os.path.join(parent, self.name)
        if directory not in self.made:
            _sweep(parent)
            self._locks.append(_made(directory))
            self.made[directory] = hierarchy
            if hierarchy.version == 1 and "cpuset" in hierarchy.controllers:
                _inherit_cpuset(directory, parent)
        return directory

    def entrances(self) -> list[int]:
        """Open the files through which a process joins."""
        return [os.open(os.path.join(path, "cgroup.procs"), os.O_WRONLY | os.O_CLOEXEC) for path in self.made]

    def thaw(self) -> None:
        """Let the processes take notice of signals, whoever froze them."""
        from cowstore.runtime.watcher import thaw

        thaw(self.made)

    def out_of_memory(self) -> bool:
        """Tell whether the kernel ended a process of the container for want of memory."""
        return any(_count(path, name) for path in self.made for name in ("memory.events", "memory.oom_control"))

    def peak_memory(self) -> int | None:
        """Return the most memory that was in use at once, in bytes, where it was counted."""
        for path in self.made:
            for name in ("memory.peak", "memory.max_usage_in_bytes"):
                words = list(_read_words(os.path.join(path, name)))
                if words and words[0].isdigit():
                    return int(words[0])
        return None

    def remove(self) -> None:
        """Remove the groups, with those that a program made below them. Its processes have ended.

        :raises CowstoreError: one cannot be removed.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for path in list(self.made):
            while not _remove(path):
                if time.monotonic() > deadline:
                    raise CowstoreError(f"the control group {path} cannot be removed: something is left in it")
                time.sleep(0.002)
            del self.made[path]
        while self._locks:
            os.close(self._locks.pop())


def _made(directory: str) -> int:
    """Make a group, and return a descriptor of it that holds its lock."""
    while True:
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            pass
        except PermissionError as error:
            raise Unsupported(
                f"{os.path.dirname(directory)} may not be written to: be root, or have the group delegated "
                "(systemd-run --user --scope -p Delegate=yes …)"
            ) from error
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # somebody swept it away before it was locked
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.stat(directory).st_ino == os.fstat(lock).st_ino:
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)


def _parent_v2(hierarchy: Hierarchy, controller: str) -> str:
    """Return the group below which one with a controller can be made.

    A group that has processes cannot give controllers to groups below it, the topmost excepted. So the container's is
    made beside the launcher's own, where the one above has the controller; else the launcher moves into a group of its
    own, which only works where nobody else is in the present one.
    """
    own, root = hierarchy.own, hierarchy.root
    above = os.path.dirname(own)
    if own != root:
        if controller in _read_words(os.path.join(above, "cgroup.subtree_control")) and os.access(above, os.W_OK):
            return above
        if os.path.basename(own).startswith(f"{PREFIX}launcher"):
            own = above
        else:
            _step_aside(own)
    try:
        if controller not in _read_words(os.path.join(own, "cgroup.subtree_control")):
            _write(own, "cgroup.subtree_control", f"+{controller}")
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT}:
            raise
        raise Unsupported(
            f"the {controller} controller cannot be used below {own} ({error.strerror}): other processes are in that "
            "group, or it is not delegated; start this in a group of its own (systemd-run --scope -p Delegate=yes …)"
        ) from error
    return own


def _step_aside(own: str) -> None:
    """Move this process into a group of its own below the present one."""
    aside = os.path.join(own, f"{PREFIX}launcher-{os.getpid()}")
    try:
        os.mkdir(aside, 0o755)
        _write(aside, "cgroup.procs", "0")
    except FileExistsError:
        return
    except OSError as error:
        raise Unsupported(
            f"{own} may not be written to ({error.strerror}): be root, or have the group delegated"
        ) from error


def _inherit_cpuset(directory: str, parent: str) -> None:
    for name in ("cpuset.cpus", "cpuset.mems"):
        try:
            with open(os.path.join(parent, name), encoding="ascii") as file:
                _write(directory, name, file.read().strip())
        except OSError:
            continue


def _count(path: str, name: str) -> int:
    """Return the number of processes that were ended for want of memory."""
    try:
        with open(os.path.join(path, name), encoding="ascii") as file:
            pairs = dict(line.split()[:2] for line in file)
    except (OSError, ValueError):
        return 0
    return int(pairs.get("oom_kill", "0"))


def _remove(path: str) -> bool:
    """Remove a group with those below it; False while something is in one."""
    try:
        with os.scandir(path) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for inner in below:
            if not _remove(inner):
                return False
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _sweep(parent: str) -> None:
    """Remove the groups that launchers left behind which were killed: nobody holds their locks."""
    from cowstore.runtime.watcher import thaw

    try:
        with os.scandir(parent) as entries:
            paths = [entry.path for entry in entries if entry.name.startswith(PREFIX) and entry.is_dir()]
    except OSError:
        return
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            thaw((path,))
            _remove(path)
        except OSError:
            continue
        finally:
            os.close(fd)


# Steps.


def make_groups(inside: Inside, *, limits: Limits) -> None:
    """Make the container's groups, and set its limits.

    :raises Unsupported: this machine cannot enforce one.
    """
    groups = Groups(os.urandom(8).hex())
    groups.make(limits)
    inside.groups = groups
    inside.entrances = groups.entrances()
    inside.warnings += groups.warnings


def join_groups(inside: Inside, *, spared: bool) -> None:
    """Put process 1, and so all that follows, into the container's groups, which are all it sees from then on.

    :param spared: when memory is short, the kernel shall end others: process 1 tells what happened.
    """
    while inside.entrances:
        fd = inside.entrances.pop()
        os.write(fd, b"0")
        os.close(fd)
    unshare(CloneFlag.NEWCGROUP)
    if spared:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            inside.oom_score = file.read(16).strip()
            try:
                file.write(b"-1000")
            except PermissionError:
                inside.oom_score = b""  # only CAP_SYS_RESOURCE of the first user namespace may ask for less


def spare_no_longer(inside: Inside) -> None:
    """Let the program be ended like any other when memory is short."""
    if inside.oom_score:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(inside.oom_score)
