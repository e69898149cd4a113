"""Which system calls a program may make: the default, and profiles from files.

The default allows what programs need and refuses what administers the machine, reaches into the kernel, or has been the
way out of containers: keys, BPF, new namespaces, mounts, modules, io_uring, performance events, other processes' memory
is left to capabilities. A call that no table here knows fails as on a kernel that lacks it (ENOSYS), so that programs
fall back; one that is known and refused fails with EPERM.
"""

from __future__ import annotations

import errno
import os

from cowstore._linux import seccomp as kernel
from cowstore._linux.capabilities import Cap
from cowstore.errors import InvalidArgument, Unsupported
from cowstore.runtime.bpf import ALLOW, Condition, Rule, compile_filter
from cowstore.runtime.spec import DEFAULT_CAPS
from cowstore.runtime.syscalls import ARCHITECTURES, numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REFUSED = kernel.RET_ERRNO | errno.EPERM
UNKNOWN = kernel.RET_ERRNO | errno.ENOSYS

NEVER = (
    "_sysctl add_key afs_syscall break create_module epoll_ctl_old epoll_wait_old ftime get_kernel_syms getpmsg gtty "
    "idle io_uring_enter io_uring_register io_uring_setup keyctl kexec_file_load kexec_load lock lsm_set_self_attr mpx "
    "nfsservctl pivot_root prof profil putpmsg query_module request_key security stty swapoff swapon sysfs tuxcall "
    "ulimit userfaultfd uselib ustat vm86 vm86old vserver"
)
"""What no program in a container needs, whatever it may do otherwise."""

BY_CAPABILITY: dict[Cap, str] = {
    Cap.SYS_ADMIN: (
        "bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount open_tree "
        "open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 "
        "unshare"
    ),
    Cap.SYS_BOOT: "reboot",
    Cap.SYS_CHROOT: "chroot",
    Cap.SYS_MODULE: "delete_module finit_module init_module",
    Cap.SYS_PACCT: "acct",
    Cap.SYS_PTRACE: "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    Cap.SYS_RAWIO: "ioperm iopl",
    Cap.SYS_TIME: "clock_settime clock_settime64 settimeofday stime",
    Cap.SYS_TTY_CONFIG: "vhangup",
    Cap.SYS_NICE: "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    Cap.SYSLOG: "syslog",
    Cap.BPF: "bpf",
    Cap.PERFMON: "perf_event_open",
    Cap.DAC_READ_SEARCH: "open_by_handle_at",
}
"""What is of use only with a capability, and refused without it."""

TRACING = frozenset({"kcmp", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "ptrace"})
"""Allowed without their capability too: the kernel lets a program trace its own children, and nobody else's."""

_NEW_NAMESPACES = 0x7E020000
"""Flags of clone(2) that ask for namespaces."""

_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, 32 bits, the uname of 2.6, both, and the question."""

_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_VSOCK = 40


def default_rules(table: Mapping[str, int], caps: int) -> dict[int, tuple[Rule, ...]]:
    """Return the default's rules for one architecture and a mask of capabilities."""
    refused = set(NEVER.split())
    granted: set[str] = set()
    for cap, names in BY_CAPABILITY.items():
        (granted if caps >> cap & 1 else refused).update(names.split())
    refused -= granted | TRACING
    rules: dict[int, tuple[Rule, ...]] = {
        number: (Rule(action=REFUSED),) if name in refused else (ALLOW,) for name, number in table.items()
    }
    if not caps >> Cap.SYS_ADMIN & 1:
        # clone3 has its flags behind a pointer, where no filter sees them; without it the C library uses clone.
        rules[table["clone3"]] = (Rule(action=UNKNOWN),)
        no_namespaces = Condition(index=0, operation="&", value=_NEW_NAMESPACES, masked=0)
        rules[table["clone"]] = (Rule(action=kernel.RET_ALLOW, conditions=(no_namespaces,)), Rule(action=REFUSED))
    rules[table["personality"]] = (
        *(
            Rule(action=kernel.RET_ALLOW, conditions=(Condition(index=0, operation="==", value=value, low=True),))
            for value in _PERSONALITIES
        ),
        Rule(action=REFUSED),
    )
    # Keys pushed into a terminal are typed by whoever reads it next, which may be a shell outside.
    typed = (Condition(index=1, operation="==", value=value, low=True) for value in (_TIOCSTI, _TIOCLINUX))
    rules[table["ioctl"]] = (*(Rule(action=REFUSED, conditions=(condition,)) for condition in typed), ALLOW)
    reaching_out = Condition(index=0, operation="==", value=_AF_VSOCK, low=True)
    rules[table["socket"]] = (Rule(action=REFUSED, conditions=(reaching_out,)), ALLOW)
    return rules


def machine() -> str:
    """Return this machine's name as the tables have it.

    :raises Unsupported: there are no tables for it.
    """
    name = os.uname().machine
    if name not in ARCHITECTURES:
        raise Unsupported(
            f"no filter of system calls can be made on {name}: its numbers are not known here; "
            "run without one (--seccomp none)",
            feature="seccomp",
        )
    return name


def default(caps: int = DEFAULT_CAPS, *, on: str | None = None) -> bytes:
    """Return the default filter as a program for the kernel.

    :param caps: mask of the capabilities that the program keeps. :param on: a machine's name; this one's by default.
    """
    return _compiled(on or machine(), lambda table: default_rules(table, caps), default=UNKNOWN)


def _compiled(on: str, rules: Callable[[Mapping[str, int]], dict[int, tuple[Rule, ...]]], *, default: int) -> bytes:
    architectures = [(number, name == "x86_64", rules(numbers(name))) for name, number in ARCHITECTURES[on]]
    return compile_filter(architectures, default=default, foreign=UNKNOWN)


# Profiles.

_ACTIONS = {
    "SCMP_ACT_KILL": kernel.RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": kernel.RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": kernel.RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": kernel.RET_TRAP,
    "SCMP_ACT_LOG": kernel.RET_LOG,
    "SCMP_ACT_ALLOW": kernel.RET_ALLOW,
}
_OPERATIONS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "&",
}


def from_file(path: str, caps: int = DEFAULT_CAPS) -> bytes:
    """Compile a profile in the container runtimes' common JSON form.

    :param caps: mask of the capabilities that the program keeps, for the parts of a profile that depend on them.
    :raises InvalidArgument: it is none.
    """
    import json

    try:
        with open(path, encoding="utf-8") as file:
            profile = json.load(file)
        return from_profile(profile, caps)
    except OSError as error:
        raise InvalidArgument(
            f"cannot read the seccomp profile {path}: {error.strerror}", argument="seccomp"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"{path} is no seccomp profile: {error}", argument="seccomp") from error


def from_profile(profile: Mapping[str, object], caps: int, *, on: str | None = None) -> bytes:
    """Compile a profile that was read.

    :raises ValueError: it holds what is not known here. :raises KeyError: it lacks what every profile has.
    """
    here = on or machine()
    fallback = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    entries = profile.get("syscalls") or []
    if not isinstance(entries, list):
        raise TypeError("syscalls is no list")
    wanted = [entry for entry in entries if applies(entry, caps, here)]

    def rules(table: Mapping[str, int]) -> dict[int, tuple[Rule, ...]]:
        found: dict[int, tuple[Rule, ...]] = {}
        for entry in wanted:
            rule = Rule(
                action=_action(entry["action"], entry.get("errnoRet")),
                conditions=tuple(map(_condition, entry.get("args") or ())),
            )
            for name in entry.get("names") or [entry["name"]]:
                if name in table:
                    found[table[name]] = (*found.get(table[name], ()), rule)
        # As libseccomp has it: a rule without conditions decides, wherever it stands.
        return {number: next(((rule,) for rule in own if not rule.conditions), own) for number, own in found.items()}

    return _compiled(here, rules, default=fallback)


def _action(name: object, code: object) -> int:
    if name in {"SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"}:
        base = kernel.RET_ERRNO if name == "SCMP_ACT_ERRNO" else kernel.RET_TRACE
        return base | (code if isinstance(code, int) else errno.EPERM) & 0xFFFF
    if not isinstance(name, str) or name not in _ACTIONS:
        raise ValueError(f"unknown action {name!r}")
    return _ACTIONS[name]


def _condition(argument: Mapping[str, object]) -> Condition:
    operation = _OPERATIONS.get(str(argument["op"]))
    index, value, second = argument["index"], argument["value"], argument.get("valueTwo", 0)
    if operation is None or not isinstance(index, int) or not 0 <= index <= 5:
        raise ValueError(f"unknown comparison {argument!r}")
    if not isinstance(value, int) or not isinstance(second, int):
        raise TypeError(f"no numbers in {argument!r}")
    return Condition(index=index, operation=operation, value=value, masked=second)


def applies(entry: Mapping[str, object], caps: int, on: str) -> bool:
    """Tell whether a part of a profile is for this machine and these capabilities."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(on, on)

    def holds(part: object) -> list[bool]:
        if not isinstance(part, dict):
            return []
        found = [bool(caps >> Cap[name.removeprefix("CAP_")] & 1) for name in part.get("caps") or ()]
        if part.get("arches"):
            found.append(arch in part["arches"])
        return found  # minKernel is older than every kernel that has the calls used here

    return all(holds(entry.get("includes"))) and not any(holds(entry.get("excludes")))
