"""A snapshot as an OCI runtime bundle, which any OCI runtime runs (runc, crun, youki).

Source: OCI runtime specification 1.0, config.md and config-linux.md.
"""

from __future__ import annotations

import os

from cowstore.errors import InvalidArgument
from cowstore.runtime import compose
from cowstore.runtime.image import config_of
from cowstore.runtime.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cowstore.runtime.bpf import Condition
    from cowstore.runtime.limits import Limits
    from cowstore.store import Store

ROOT = "rootfs"
"""Directory of the bundle at which the snapshot is mounted."""


def bundle(
    store: Store,
    key: str,
    directory: str | os.PathLike[str],
    *,
    argv: Iterable[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    hostname: str | None = None,
    network: str = "none",
    limits: Limits | None = None,
    tty: bool = False,
) -> str:
    """Make *directory* a bundle of the snapshot *key*, mounted below it until ``store.detach(directory/rootfs)``.

    The process in it is as isolated as one of :func:`cowstore.run`, whose arguments these are.

    :returns: the path of the mounted root.
    :raises NotFound: no such snapshot. :raises InvalidArgument: the directory is not empty, or there is no program.
    """
    import json

    path = os.path.abspath(os.fspath(directory))
    os.makedirs(path, exist_ok=True)
    if os.listdir(path):
        raise InvalidArgument(f"{path} is not empty; name a new directory", argument="directory")
    image = config_of(store, key)
    spec = Spec(
        mounts=(),
        argv=compose.command(image.argv if argv is None else argv),
        env=compose.environment(env, image.env),
        cwd=compose.directory(cwd or image.cwd or None),
        user=compose.user(user, image.user),
        hostname=compose.hostname(hostname),
        network=compose.network(network),
        limits=limits.check() if limits is not None and limits.any else None,
        tty=tty,
        read_only=store.stat(key).kind != "active",
    )
    root = os.path.join(path, ROOT)
    os.mkdir(root, 0o700)
    try:
        store.attach(key, root)
    except BaseException:
        os.rmdir(root)
        raise
    try:
        content = json.dumps(config(spec, *_ids(root, spec.user)), indent=2)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(content + "\n")
    except BaseException:
        store.detach(root)
        os.rmdir(root)
        raise
    return root


def _ids(root: str, user: str) -> tuple[int, int, list[int], str]:
    """Look the user up in the root: a bundle knows numbers only."""
    from cowstore._linux.fd import open_
    from cowstore.runtime.inside import Inside
    from cowstore.runtime.program import ProgramError
    from cowstore.runtime.users import resolve

    inside = Inside()
    inside.take_root(open_(root, os.O_PATH | os.O_DIRECTORY))
    try:
        return resolve(inside, user)
    except ProgramError as error:
        raise InvalidArgument(str(error), argument="user") from error
    finally:
        inside.let_go()


def config(spec: Spec, uid: int, gid: int, groups: list[int], home: str) -> dict[str, object]:
    """Return the configuration of a bundle."""
    from cowstore.runtime.masks import MASKED, READ_ONLY

    names = [f"CAP_{name}" for name in _capabilities(spec.capabilities)]
    environment = dict(spec.env)
    environment.setdefault("HOME", home)
    process = {
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
    kinds = ["mount", "pid", "uts", "ipc", "cgroup", *(() if spec.network == "host" else ("network",))]
    linux: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
        "resources": _resources(spec.limits),
        "seccomp": _seccomp(spec.capabilities),
    }
    made: dict[str, object] = {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": ROOT, "readonly": spec.read_only},
        "mounts": _mounts(),
        "linux": linux,
    }
    if spec.hostname is not None:
        made["hostname"] = spec.hostname
    return made


def _capabilities(mask: int) -> list[str]:
    from cowstore._linux.capabilities import Cap

    return [cap.name for cap in Cap if mask >> cap & 1]


def _mounts() -> list[dict[str, object]]:
    secured = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": secured},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*secured, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": secured},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*secured, "ro"]},
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
    return made


def _seccomp(caps: int) -> dict[str, object]:
    """Return the default filter as names and conditions, as the specification has it."""
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
