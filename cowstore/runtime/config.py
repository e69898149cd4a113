"""A spec in the words of the OCI runtime specification, for the runtimes that are not ours.

Source: OCI runtime specification 1.0, config.md and config-linux.md.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.bpf import Condition
    from cowstore.runtime.limits import Limits
    from cowstore.runtime.spec import Spec

    Ids = tuple[int, int, list[int], str]
    """User, group, further groups, home."""

ROOT = "rootfs"
"""Directory of a bundle at which the snapshot is mounted."""

_SECURED = ["nosuid", "noexec", "nodev"]
_TTY_GROUP = 5


def config(spec: Spec, ids: Ids) -> dict[str, object]:
    """Return the configuration of a bundle.

    :param spec: its filter of system calls is what :func:`filter_of` gives. :param ids: of the user in the root, since
        a bundle knows numbers only.
    """
    import json

    from cowstore.runtime.masks import MASKED, READ_ONLY

    kinds = ["mount", "pid", "uts", "ipc", "cgroup", *(("network",) if spec.network == "none" else ())]
    linux: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": [*MASKED, *spec.hidden],
        "readonlyPaths": list(READ_ONLY),
        "resources": _resources(spec.limits),
    }
    if spec.seccomp:
        linux["seccomp"] = json.loads(spec.seccomp)
    made: dict[str, object] = {
        "ociVersion": "1.0.2",
        "process": _process(spec, ids),
        "root": {"path": ROOT, "readonly": spec.read_only},
        "mounts": [*_file_systems(), *_tmpfs(spec), *_binds(spec)],
        "annotations": {"org.opencontainers.image.stopSignal": _signal_name(spec.stop_signal)},
        "linux": linux,
    }
    if spec.hostname is not None:
        made["hostname"] = spec.hostname
    return made


def _process(spec: Spec, ids: Ids) -> dict[str, object]:
    from cowstore._linux.capabilities import Cap

    uid, gid, groups, home = ids
    names = [f"CAP_{cap.name}" for cap in Cap if spec.capabilities >> cap & 1]
    environment = dict(spec.env)
    environment.setdefault("HOME", home)
    size = _console_size() if spec.tty else {}
    return {
        **size,
        "terminal": spec.tty,
        "user": {"uid": uid, "gid": gid, "additionalGids": groups},
        "args": list(spec.argv),
        "env": [f"{name}={value}" for name, value in environment.items()],
        "cwd": spec.cwd,
        "noNewPrivileges": not spec.new_privileges,
        # A user who is not root has none, as after execve(2).
        "capabilities": {
            "bounding": names,
            **{kind: names if uid == 0 else [] for kind in ("effective", "permitted")},
        },
    }


def _console_size() -> dict[str, object]:
    """Return the size of the terminal here: a runtime sets it only some time after the start."""
    for fd in (0, 1, 2):
        try:
            width, height = os.get_terminal_size(fd)
        except OSError:
            continue
        return {"consoleSize": {"height": height, "width": width}}
    return {}


def _signal_name(number: int) -> str:
    import signal

    return signal.Signals(number).name if number in set(signal.Signals) else str(number)


def _file_systems() -> list[dict[str, object]]:
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if _is_mapped(_TTY_GROUP):
        terminals.append(f"gid={_TTY_GROUP}")
    return [
        _mount("/proc", "proc", _SECURED),
        _mount("/dev", "tmpfs", ["nosuid", "noexec", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", terminals),
        _mount("/dev/shm", "tmpfs", [*_SECURED, "mode=1777", "size=65536k"]),
        _mount("/dev/mqueue", "mqueue", _SECURED),
        _mount("/sys", "sysfs", [*_SECURED, "ro"]),
    ]


def _mount(destination: str, kind: str, options: list[str], source: str = "") -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": options}


def _is_mapped(group: int) -> bool:
    """Tell whether this user namespace knows a group."""
    with open("/proc/self/gid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= group < first + count for first, _, count in ranges)


def _tmpfs(spec: Spec) -> list[dict[str, object]]:
    return [
        _mount(path, "tmpfs", ["nosuid", "nodev", "mode=1777", *([f"size={size_bytes}"] if size_bytes else [])])
        for path, size_bytes in spec.tmpfs
    ]


def _binds(spec: Spec) -> list[dict[str, object]]:
    return [
        _mount(
            bind.target,
            "bind",
            ["rbind" if bind.recursive else "bind", "private", "nosuid", "nodev", "ro" if bind.read_only else "rw"],
            bind.source,
        )
        for bind in spec.binds
    ]


def _resources(limits: Limits | None) -> dict[str, object]:
    made: dict[str, object] = {"devices": [{"allow": False, "access": "rwm"}]}
    if limits is None:
        return made
    if limits.memory_bytes is not None:
        made["memory"] = {"limit": limits.memory_bytes}
    if limits.cpus is not None:
        made["cpu"] = {"quota": round(limits.cpus * 100_000), "period": 100_000}
    if limits.pids is not None:
        made["pids"] = {"limit": limits.pids}
    if limits.io_weight is not None:
        made["blockIO"] = {"weight": min(1000, max(10, limits.io_weight))}
    return made


# Filters of system calls.


def filter_of(choice: str, caps: int) -> bytes:
    """Return the filter of system calls for a choice, as JSON of the specification; empty for none.

    :param choice: ``"default"``, ``"none"``, or the path of a profile in the container runtimes' common JSON form.
    :param caps: mask of the capabilities that the program keeps.
    :raises InvalidArgument: the file is no such profile. :raises Unsupported: no tables for this machine.
    """
    import json

    if choice == "none":
        return b""
    made = default_filter(caps) if choice == "default" else _filter_from_file(choice, caps)
    return json.dumps(made).encode()


def default_filter(caps: int) -> dict[str, object]:
    """Return the default filter as names and conditions."""
    from cowstore._linux.seccomp import RET_ALLOW
    from cowstore.runtime import seccomp
    from cowstore.runtime.bpf import Rule
    from cowstore.runtime.syscalls import numbers

    here = seccomp.machine()
    table = numbers(here)
    rules = seccomp.default_rules(table, caps)

    def plain(action: int) -> list[str]:
        return sorted(name for name, number in table.items() if rules[number] == (Rule(action=action),))

    calls: list[dict[str, object]] = [
        {"names": plain(RET_ALLOW), "action": "SCMP_ACT_ALLOW"},
        {"names": plain(seccomp.REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    ]
    for name, number in sorted(table.items()):
        conditional = [rule for rule in rules[number] if rule.conditions]
        refusing = [rule for rule in conditional if rule.action != RET_ALLOW]
        # Rules of one call must not overlap there, so a call is allowed on conditions, and else refused by the default.
        # Of several values that are refused only the first can be said: TIOCSTI, of the terminal's.
        for rule in refusing[:1] or conditional:
            argument = _argument(rule.conditions[0], negated=bool(refusing))
            calls.append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": _ARCHITECTURES[here],
        "syscalls": calls,
    }


_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
    "aarch64": ["SCMP_ARCH_AARCH64"],
    "riscv64": ["SCMP_ARCH_RISCV64"],
}


def _argument(condition: Condition, *, negated: bool) -> dict[str, object]:
    made: dict[str, object] = {"index": condition.index, "value": condition.value}
    if condition.operation == "&":
        return {**made, "valueTwo": condition.masked, "op": "SCMP_CMP_MASKED_EQ"}
    return {**made, "op": "SCMP_CMP_NE" if negated else "SCMP_CMP_EQ"}


def _filter_from_file(path: str, caps: int) -> dict[str, object]:
    """Return a profile with what its conditions say for this machine and these capabilities."""
    import json

    from cowstore.runtime import seccomp

    seccomp.from_file(path, caps)  # raises for one that is none, as our own launcher would
    with open(path, encoding="utf-8") as file:
        profile = json.load(file)
    here = seccomp.machine()
    kept = ("names", "action", "errnoRet", "args")
    calls = [
        {name: value for name, value in {**entry, "names": entry.get("names") or [entry.get("name")]}.items()
         if name in kept and value is not None}
        for entry in profile.get("syscalls") or []
        if seccomp.applies(entry, caps, here)
    ]  # fmt: skip
    made = {"defaultAction": profile["defaultAction"], "architectures": _ARCHITECTURES[here], "syscalls": calls}
    if profile.get("defaultErrnoRet") is not None:
        made["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return made
