"""Steps that leave the container to another OCI runtime: runc or crun.

Process 1 is ours, in namespaces of its own; its program is the runtime, which makes the container proper. So the
container ends with the launcher as every other does, what is mounted for it is mounted nowhere else, and its control
groups lie in one that is ours. The program is process 1 of the inner process namespace.
"""

from __future__ import annotations

import errno
import os
import stat

from cowstore import _programs
from cowstore._linux.files import Resolve, openat2
from cowstore.errors import Unsupported
from cowstore.runtime.program import NOT_EXECUTABLE, NOT_FOUND, ProgramError
from cowstore.runtime.root import SECURED, attach, make_file_system
from cowstore.runtime.spec import DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cowstore.runtime.binds import Bind
    from cowstore.runtime.inside import Inside
    from cowstore.runtime.spec import Spec

RUNTIMES = ("crun", "runc")
_WITHOUT_GROUPS = {"crun": ("--cgroup-manager=disabled",)}
_BELOW = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS


def find(name: str) -> str:
    """Return the path of an OCI runtime.

    :raises Unsupported: it is not installed.
    """
    path = _programs.find_in(DEFAULT_PATH.split(":"), name)
    if path is not None:
        return path
    raise Unsupported(f"{name} is not installed: on Debian it is in the package {name}", feature="runtime")


def make_group(inside: Inside) -> None:
    """Make one control group for those of the runtime."""
    from cowstore.runtime.cgroups import Groups

    if inside.groups is None:
        inside.groups = Groups(os.urandom(8).hex())
    inside.groups.make_plain()
    for fd in inside.entrances:
        os.close(fd)
    inside.entrances = inside.groups.entrances()


def mount_bundle(inside: Inside, *, at: str) -> None:
    """Mount a bundle's directory in memory, and in it the snapshot, which the launcher has realised."""
    from cowstore.runtime.config import ROOT

    inside.bundle = at
    with make_file_system("tmpfs", (("mode", "700"), ("size", "16m")), SECURED) as made:
        _attach_at(made.fileno(), at)
    os.mkdir(os.path.join(at, ROOT), 0o755)
    root = inside.tree.pop("root")
    inside.take_root(root)
    _attach_at(root.fileno(), os.path.join(at, ROOT))


def _attach_at(mount: int, path: str) -> None:
    place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attach(mount, place)
    finally:
        os.close(place)


def mount_for_runtime(inside: Inside) -> None:  # noqa: ARG001  # every step has the same signature
    """Mount what the runtime looks at: the processes here, and control groups of version 2 with ours as the topmost."""
    with make_file_system("proc", (), SECURED) as proc:
        _attach_at(proc.fileno(), "/proc")
    try:
        with make_file_system("cgroup2", (), SECURED) as groups:
            _attach_at(groups.fileno(), "/sys/fs/cgroup")
    except OSError as error:
        # Without, the runtime takes what is there.
        if error.errno not in {errno.EPERM, errno.ENODEV, errno.ENOENT, errno.EBUSY}:
            raise


def write_configuration(inside: Inside, *, spec: Spec) -> None:
    """Write the bundle's configuration, and make sure that there is a program to run."""
    import json
    from dataclasses import replace

    from cowstore.runtime.config import ROOT, config
    from cowstore.runtime.users import resolve

    uid, gid, groups, home = resolve(inside, spec.user)
    if _denies_groups():
        groups = []
    binds = tuple(bind for bind in spec.binds if not bind.only_over or _is_there(inside, bind))
    cwd = spec.cwd
    found = inside.find(cwd, os.O_PATH | os.O_DIRECTORY)
    if found is not None:
        found.close()
    elif spec.cwd_may_lack:
        cwd = "/"
    else:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), cwd)
    path = _lookup(inside, spec.argv[0], dict(spec.env).get("PATH", ""), cwd)
    # The network is that of process 1, the limits are on our own groups, and the root is read-only already: runc would
    # remount it, without `nodev`.
    argv = (path, *spec.argv[1:])
    told = replace(spec, binds=binds, cwd=cwd, argv=argv, limits=None, network="host", read_only=False)
    made = config(told, (uid, gid, groups, home))
    if os.path.basename(spec.runtime) in _WITHOUT_GROUPS:
        made["hooks"] = _keeping_devices_out(os.path.join(inside.bundle, ROOT), read_only=spec.read_only)
    content = json.dumps(made)
    with open(os.path.join(inside.bundle, "config.json"), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)


def _keeping_devices_out(root: str, *, read_only: bool) -> dict[str, object]:
    """Return the hook that has the device nodes of an image open nothing.

    crun drops that from the root it is given, and without control groups has no other guard.
    """
    options = "remount,bind,nodev" + (",ro" if read_only else "")
    # It takes the container's state from its standard input first: crun gives up when nobody reads that.
    script = 'while read -r line; do :; done; exec mount -n -o "$0" "$1"'
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script, options, root], "env": [f"PATH={DEFAULT_PATH}"]}
    return {"createContainer": [hook]}


def _denies_groups() -> bool:
    try:
        with open("/proc/self/setgroups", encoding="ascii") as file:
            return file.read().strip() == "deny"
    except OSError:
        return False


def _is_there(inside: Inside, bind: Bind) -> bool:
    found = inside.find(bind.target)
    if found is None:
        return False
    with found:
        return stat.S_ISDIR(os.fstat(found.fileno()).st_mode) == os.path.isdir(bind.source)


def _lookup(inside: Inside, name: str, path: str, cwd: str) -> str:
    """Find the program in the root, as our own launcher would: a runtime has one status for whatever goes wrong.

    :raises ProgramError: there is none, or it cannot be executed.
    """
    if not name:
        raise ProgramError(NOT_FOUND, "the program's name is empty")
    places = [name] if "/" in name else [os.path.join(part or ".", name) for part in path.split(":")]
    refused: ProgramError | None = None
    for place in places:
        inner = os.path.join(cwd, place)
        try:
            why = _refusal(inside, inner)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            why = error.strerror or ""
        if not why:
            return place
        refused = refused or ProgramError(NOT_EXECUTABLE, f"{place}: cannot execute: {why}")
    if refused is not None:
        raise refused
    where = f"there is no {name}" if "/" in name else f"{name} is not in the PATH {path!r}"
    raise ProgramError(NOT_FOUND, f"{name}: not found: {where} of the root")


def _refusal(inside: Inside, path: str) -> str:
    """Say why a file cannot be executed; nothing if it can.

    :raises OSError: ENOENT, there is none.
    """
    fd = openat2(inside.root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0, _BELOW)
    try:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            return "it is a directory"
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
            return "permission denied; is its executable bit set?"
        head = os.read(fd, 256)
    finally:
        os.close(fd)
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n", 1)[0].split()
        interpreter = inside.find(os.fsdecode(words[0])) if words else None
        if interpreter is None:
            return "the interpreter or loader it names is not in the root"
        interpreter.close()
    elif not head.startswith(b"\x7fELF"):
        return "neither a binary for this machine nor a script with a #! line"
    return ""


def execute_runtime(inside: Inside, *, runtime: str) -> NoReturn:
    """Become the runtime."""
    at = inside.bundle
    inside.let_go()
    name = os.path.basename(runtime)
    words = [
        *(name, *_WITHOUT_GROUPS.get(name, ()), "--root", f"{at}/state"),
        *("run", "--bundle", at, "--pid-file", evidence(at), "program"),
    ]
    os.execve(runtime, words, {"PATH": DEFAULT_PATH, "HOME": "/root", "XDG_RUNTIME_DIR": at})


def evidence(at: str) -> str:
    """Return the path of the file that says that there was a program."""
    return os.path.join(at, "pid")


def program_of(process_1: int) -> int | None:
    """Return the program of a container that a runtime has made, as it is seen here; None if there is none yet.

    :param process_1: ours; the runtime is its child, and the program the runtime's.
    """
    from cowstore._linux.procfs import children

    at = process_1
    for _ in range(2):
        try:
            found = children(at)
        except OSError:
            return None
        if not found:
            return None
        at = found[0]
    return at
