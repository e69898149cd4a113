"""A user and mount namespace of its own for a process of one thread, in which it may mount.

The process is root there: uid 0 stands for the user himself. Where the administrator granted him ranges of further ids,
newuidmap(1) maps them behind; otherwise there is that one id, and the kernel wants setgroups(2) given up for it.

Source: user_namespaces(7), newuidmap(1).
"""

from __future__ import annotations

import errno
import os

from cowstore._linux.mount import MountFlag, mount
from cowstore._linux.namespaces import CloneFlag, unshare
from cowstore._rootless import ids
from cowstore.errors import CowstoreError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cowstore._rootless.ids import Range

SYSCTLS = "/proc/sys"
_SYS_ADMIN = 1 << 21
"""Source: include/uapi/linux/capability.h."""
FEATURE = "user namespaces"


def may_mount() -> bool:
    """Tell whether this process has what every mount needs (CAP_SYS_ADMIN), in whatever user namespace it is."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & _SYS_ADMIN)
    return os.geteuid() == 0


def enter() -> None:
    """Put this process, which has one thread, into a user and a mount namespace of its own, as their root.

    :raises Unsupported: this machine does not let its users; names the setting or the package.
    """
    uid = os.geteuid()
    users, groups = ids.ranges(uid)
    mappers = _Mappers(users, groups) if len(users) > 1 else None
    own_group = os.getegid()
    try:
        unshare(CloneFlag.NEWUSER | CloneFlag.NEWNS)
    except OSError as error:
        if mappers is not None:
            mappers.give_up()
        raise refusal("make a user namespace", error) from error
    complaint = "" if mappers is None else mappers.map()
    if mappers is None or complaint:
        try:
            _map_one(uid, own_group)
        except OSError as error:
            if complaint:
                raise Unsupported(
                    f"cannot map this user's ids: {complaint}; {ids.how_to_get_more(uid)}", feature=FEATURE
                ) from error
            raise refusal("map this user to the root of a user namespace", error) from error
    if complaint:
        from cowstore._log import logger

        logger(__name__).warning("going on with one id instead of this user's ranges: %s", complaint)
    try:
        # What is mounted inside is seen there alone; what is mounted outside goes on appearing.
        mount(None, "/", None, MountFlag.REC | MountFlag.SLAVE)
    except OSError as error:
        raise refusal("mount in a user namespace", error) from error


def _map_one(uid: int, gid: int) -> None:
    """Map this user to root, in the order that the kernel wants: without setgroups(2) first, each map in one write.

    :raises OSError: EPERM, EACCES.
    """
    for name, text in (("setgroups", "deny"), ("gid_map", f"0 {gid} 1\n"), ("uid_map", f"0 {uid} 1\n")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


class _Mappers:
    """A child that stays outside, and has the administrator's programs write the maps of its parent."""

    def __init__(self, users: Sequence[Range], groups: Sequence[Range]) -> None:
        inside, self._go = os.pipe2(os.O_CLOEXEC)
        self._said, say = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                os.close(self._go)
                os.dup2(say, 2)
                if os.read(inside, 1):
                    status = _run("newuidmap", parent, users) or _run("newgidmap", parent, groups)
            finally:
                os._exit(status)
        os.close(inside)
        os.close(say)

    def map(self) -> str:
        """Write the maps; returns what went wrong, nothing if all is well."""
        os.write(self._go, b"+")
        return self._end()

    def give_up(self) -> None:
        """End the child without anything done."""
        self._end()

    def _end(self) -> str:
        os.close(self._go)
        said = b""
        while part := os.read(self._said, 4096):
            said += part
        os.close(self._said)
        _, status = os.waitpid(self._pid, 0)
        if status == 0:
            return ""
        return said.decode(errors="replace").strip().replace("\n", "; ") or "newuidmap failed without a word"


def _run(name: str, pid: int, ranges: Sequence[Range]) -> int:
    """Run newuidmap or newgidmap on a process; returns its status."""
    path = ids.program(name)
    if path is None:
        os.write(2, f"{name} is not installed".encode())
        return 1
    words = [word for each in ranges for word in (str(each.inside), str(each.outside), str(each.count))]
    child = os.posix_spawn(path, [name, str(pid), *words], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Refusals.


def refusal(tried: str, error: OSError, *, sysctls: str = SYSCTLS) -> Unsupported:
    """Say why this machine does not let an ordinary user do it, and who can change that.

    :param tried: what was tried, as in "cannot ...". :param sysctls: where the kernel's settings are read.
    """
    notes = "; ".join(getattr(error, "__notes__", ()))
    why = f"{error.strerror}{f' ({notes})' if notes else ''}"
    return Unsupported(f"cannot {tried}: {why}: {_cure(error, sysctls)}", feature=FEATURE)


def _cure(error: OSError, sysctls: str) -> str:
    as_root = "or run as root"
    if _setting(sysctls, "user/max_user_namespaces") == "0":
        return (
            "the sysctl user.max_user_namespaces is 0; raise it (sysctl -w user.max_user_namespaces=15000, lasting in "
            f"/etc/sysctl.d), {as_root}"
        )
    if error.errno in {errno.ENOSPC, errno.EUSERS}:
        return (
            "there are as many user namespaces as the sysctl user.max_user_namespaces allows here, or they are nested "
            f"too deep; raise it, end some, {as_root}"
        )
    if error.errno in {errno.ENOSYS, errno.EINVAL}:
        return f"this kernel has no user namespaces for it (CONFIG_USER_NS); use another kernel, {as_root}"
    if _setting(sysctls, "kernel/unprivileged_userns_clone") == "0":
        return (
            "the sysctl kernel.unprivileged_userns_clone is 0; set it to 1 (sysctl -w "
            f"kernel.unprivileged_userns_clone=1), {as_root}"
        )
    if _setting(sysctls, "kernel/apparmor_restrict_unprivileged_userns") not in {"", "0"}:
        return (
            "AppArmor takes a user namespace's privileges away (the sysctl "
            "kernel.apparmor_restrict_unprivileged_userns is 1); give this program's interpreter a profile that allows "
            f"`userns,` in /etc/apparmor.d, set the sysctl to 0, {as_root}"
        )
    return (
        "a security module, a filter of system calls (as in a container: podman and docker take --security-opt "
        f"seccomp=unconfined) or a chroot forbids user namespaces here; allow them, {as_root}. The sysctls "
        "kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns do not"
    )


def _setting(sysctls: str, name: str) -> str:
    """Return a setting of the kernel; nothing where it has no such one."""
    try:
        with open(os.path.join(sysctls, name), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_refusal(error: BaseException) -> bool:
    """Tell whether an error says that there are no user namespaces for this user."""
    return isinstance(error, CowstoreError) and getattr(error, "feature", "") == FEATURE
