"""What ``cowstore-run`` runs on: this machine's own root, a snapshot, an archive, or a directory."""

from __future__ import annotations

import os
import sys

from cowstore.errors import AlreadyExists, CowstoreError, InvalidArgument, NotFound, Unsupported, WrongKind
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore._linux.procfs import MountInfo
    from cowstore.runtime.binds import Bind
    from cowstore.store import Store

STAMP_LABEL = "cowstore.run.stamp"
"""Label of an imported archive: path, device, inode, size and times of the file, so that it need not be read again."""

_PREFIX = "cowstore-run:"
_OWN_FILE_SYSTEMS = ("/proc", "/sys", "/dev", "/run")
"""Mounts that never show inside: there are fresh ones, and /run holds the sockets of this machine's daemons."""
_NEEDED = ("/usr", "/var", "/etc", "/bin", "/lib", "/sbin")


def prepare(store: Store, key: str, base: str | None, *, ephemeral: bool) -> None:
    """Make the writable snapshot *key* on a base; as :func:`resolve`.

    The common case comes first: a base that is in the store already is not looked at twice.
    """
    try:
        store.prepare(key, _key("/") if base is None else base, ephemeral=ephemeral)
    except (NotFound, InvalidArgument):  # not there, or a path that can be no key
        store.prepare(key, resolve(store, base), ephemeral=ephemeral)


def resolve(store: Store, base: str | None) -> str:
    """Return the key of the committed snapshot to run on, making it where that is the first time.

    :raises NotFound: neither a snapshot nor a file nor a directory of that name. :raises WrongKind: not committed.
    :raises Unsupported: this machine's root cannot be used with this driver.
    """
    if base is None:
        return _this_machine(store)
    try:
        snapshot = store.stat(base)
    except CowstoreError:  # no key, or one that could never be one, such as a long path
        snapshot = None
    if snapshot is not None:
        if snapshot.kind != Kind.COMMITTED:
            raise WrongKind(
                f"cannot run on {base!r}: it is {snapshot.kind}, not committed; "
                f"commit it first (`cowstore commit NAME {base}`)",
                key=base,
                kind=snapshot.kind,
            )
        return base
    if os.path.isdir(base):
        return _directory(store, os.path.realpath(base))
    if os.path.isfile(base):
        return _archive(store, base)
    raise NotFound(
        f"there is no snapshot {base!r} in {store.root}, nor a file or directory of that name; "
        "`cowstore ls` lists the snapshots",
        key=base,
    )


def refuse_separate(*, with_mounts: bool) -> None:
    """Refuse a machine whose root would lack what every program needs.

    :raises Unsupported: naming what lies on another file system, and the way out.
    """
    separate = [] if with_mounts else [path for path in _NEEDED if _is_separate(path)]
    if separate:
        raise Unsupported(
            f"on this machine {' and '.join(separate)} lies on a file system of its own, and would be empty inside: "
            "add --with-mounts to show it read-only",
            feature="mounts",
        )


def _this_machine(store: Store) -> str:
    if not store.capabilities.adopts:
        raise Unsupported(
            f"the {store.driver_name} driver cannot run on this machine's own root: it would have to copy all of it. "
            "Give --base KEY|TAR|DIR, or use a store of the overlay driver (--store DIR --driver overlay)",
            feature="adopts",
        )
    from cowstore.cli import _machine

    return _machine.skeleton(store, _PREFIX) if _machine.is_locked() else _adopted(store, "/")


def _is_separate(path: str) -> bool:
    try:
        return os.stat(path).st_dev != os.stat("/").st_dev and os.path.ismount(os.path.realpath(path))
    except OSError:
        return False


def _key(what: str) -> str:
    """Return the key under which a thing outside the store is known in it."""
    key = _PREFIX + os.fsencode(what).decode("utf-8", "backslashreplace")
    if len(key) > 255:
        import hashlib

        key = _PREFIX + "sha256:" + hashlib.sha256(os.fsencode(what)).hexdigest()
    return key


def _adopted(store: Store, path: str) -> str:
    key = _key(path)
    try:
        return store.stat(key).key
    except NotFound:
        pass
    try:
        return store.adopt(key, path).key
    except AlreadyExists:  # somebody was faster
        return store.stat(key).key


def _directory(store: Store, path: str) -> str:
    """Adopt a directory, or import it once where the driver keeps all trees itself; unpack an image layout once."""
    if all(os.path.isfile(os.path.join(path, name)) for name in ("oci-layout", "index.json")):
        return _layout(store, path)
    if store.capabilities.adopts:
        return _adopted(store, path)
    key = _key(path)
    try:
        snapshot = store.stat(key)
    except NotFound:
        return store.import_directory(path, name=key).key
    print(
        f"cowstore-run: running on {path} as it was imported on {snapshot.created:%Y-%m-%d %H:%M} UTC; "
        f"to import it again: cowstore --store {store.root} rm {key}",
        file=sys.stderr,
    )
    return key


def _layout(store: Store, path: str) -> str:
    """Import an image layout, once for each state of its index, which names all else in it by digest."""
    key = f"{_PREFIX}layout:{_digest(os.path.join(path, 'index.json'))}"
    try:
        return store.stat(key).key
    except NotFound:
        pass
    try:
        return store.import_image(path, name=key).key
    except AlreadyExists:  # somebody was faster
        return key


def _archive(store: Store, path: str) -> str:
    """Import an archive, once: it is known again by its file, or else by its digest."""
    stamp = _stamp(path)
    for snapshot in store.walk(kind=Kind.COMMITTED, labels={STAMP_LABEL: stamp}):
        return snapshot.key
    key = f"{_PREFIX}tar:{_digest(path)}"
    try:
        snapshot = store.stat(key)
    except NotFound:
        try:
            snapshot = store.import_image(path, name=key)
        except AlreadyExists:
            return key
    store.update(key, {**snapshot.labels, STAMP_LABEL: stamp})
    return key


def _stamp(path: str) -> str:
    found = os.stat(path)
    return f"{found.st_dev}:{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _digest(path: str) -> str:
    import hashlib

    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def other_mounts() -> tuple[Bind, ...]:
    """Return the mounts below / to show inside, read-only: each with all below it.

    Where something is mounted over what is mounted, the upper one shows.
    """
    from cowstore._linux.procfs import mountinfo
    from cowstore.runtime.binds import Bind

    found: dict[str, None] = {}
    for entry in _shown(mountinfo()):
        point = os.fsdecode(entry.mount_point)
        if not any(point == other or point.startswith(other + "/") for other in found):
            found[point] = None
    return tuple(Bind(source=point, target=point, read_only=True, only_over=True) for point in found)


def _shown(entries: list[MountInfo]) -> Iterator[MountInfo]:
    for entry in sorted(entries, key=lambda entry: entry.mount_point):
        point = os.fsdecode(entry.mount_point)
        if point != "/" and not any(point == own or point.startswith(own + "/") for own in _OWN_FILE_SYSTEMS):
            yield entry
