"""This machine's own root for an ordinary user, whom the kernel does not let take it as one layer.

In a user namespace what is mounted below ``/`` cannot be uncovered, and so ``/`` cannot be a layer. The directories in
it can: each is the lower layer of an overlay of its own, whose upper one is the directory of that name in the run's
snapshot. The snapshot's parent is a skeleton with the names alone.

Source: has_locked_children() in fs/namespace.c.
"""

from __future__ import annotations

import os
import stat

from cowstore.errors import AlreadyExists, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.model import Mount
    from cowstore.results import Change
    from cowstore.runtime.binds import Bind
    from cowstore.store import Store

_FRESH = ("dev", "proc", "run", "sys")
_FIRST_NAMESPACE = ["0", "0", "4294967295"]


def is_locked() -> bool:
    """Tell whether this is a user namespace in which the machine's mounts cannot be uncovered."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != _FIRST_NAMESPACE


def _entries() -> Iterator[tuple[str, os.stat_result]]:
    for name in sorted(os.listdir("/")):
        found = os.lstat(f"/{name}")
        if stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode):
            yield name, found


def skeleton(store: Store, prefix: str) -> str:
    """Return the key of a snapshot with the top of this machine's tree: directories, empty, and links."""
    import hashlib
    import tempfile

    text = "".join(
        f"{name}\0{found.st_mode:o}\0{os.readlink(f'/{name}') if stat.S_ISLNK(found.st_mode) else ''}\n"
        for name, found in _entries()
    )
    key = f"{prefix}/ of sha256:{hashlib.sha256(os.fsencode(text)).hexdigest()}"
    try:
        return store.stat(key).key
    except NotFound:
        pass
    with tempfile.TemporaryDirectory(prefix="cowstore-") as draft:
        os.chmod(draft, 0o755)
        for name, found in _entries():
            path = os.path.join(draft, name)
            if stat.S_ISLNK(found.st_mode):
                os.symlink(os.readlink(f"/{name}"), path)
            else:
                os.mkdir(path)
                os.chmod(path, stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
        try:
            return store.import_directory(draft, name=key).key
        except AlreadyExists:  # somebody was faster
            return store.stat(key).key


def upper_of(mounts: tuple[Mount, ...]) -> str | None:
    """Return the directory that a snapshot's changes go to; None for one that is not written to."""
    return next((os.fsdecode(value) for name, value in mounts[-1].options if name == b"upperdir"), None)


def views(mounts: tuple[Mount, ...]) -> tuple[Bind, ...]:
    """Return what shows this machine's directories over the skeleton, and sends what changes in them to the snapshot.

    A directory that is a file system of its own stays empty, as it does for root. So do those that everybody may write
    to: an overlay could not take a change of them, since the directory itself belongs to a user who is unknown here.

    :param mounts: of the snapshot.
    """
    from cowstore.runtime.binds import Bind

    here = os.stat("/").st_dev
    found = []
    for name, entry in _entries():
        if name in _FRESH or not stat.S_ISDIR(entry.st_mode) or entry.st_dev != here or entry.st_mode & stat.S_ISVTX:
            continue
        found.append(
            Bind(source=f"/{name}", target=f"/{name}", read_only=True, only_over=True, mounts=_overlay(name, mounts))
        )
    return tuple(found)


def _overlay(name: str, mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """Describe the overlay on one directory; nothing where nothing is written, or nothing can be seen."""
    from cowstore.model import Mount

    upper = upper_of(mounts)
    if upper is None or not os.access(f"/{name}", os.R_OK | os.X_OK):
        return ()
    work = f"{os.path.dirname(upper)}/work-{name}"
    for path, mode in ((f"{upper}/{name}", stat.S_IMODE(os.stat(f"/{name}").st_mode) | stat.S_IRWXU), (work, 0o700)):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    stated = [pair for pair in mounts[-1].options if pair[0] not in {b"lowerdir+", b"upperdir", b"workdir"}]
    own = (
        (b"lowerdir+", os.fsencode(f"/{name}")),
        (b"upperdir", os.fsencode(f"{upper}/{name}")),
        (b"workdir", os.fsencode(work)),
    )
    return (Mount(type="overlay", source=b"overlay", options=(*stated, *own)),)


def changes(upper: str) -> Iterator[Change]:
    """Tell what a run changed in this machine's tree; the directories at its top, which it was given, left out."""
    from cowstore.drivers.overlay._changes import changes

    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for change in changes([upper], root, "user.overlay."):
            if change.kind != "modified" or ("/" in change.path):
                yield change
    finally:
        os.close(root)
