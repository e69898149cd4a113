"""Opening a store, making it where there is none, and choosing its driver."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import ExitStack, contextmanager, suppress

from cowstore import _faults
from cowstore._core import Core
from cowstore._leased import MOUNT_POINTS
from cowstore._rows import create as create_catalog
from cowstore.catalog import Catalog
from cowstore.drivers import load
from cowstore.errors import CowstoreError, DriverUnavailable, InvalidArgument, NotFound, StoreCorrupt, StoreMismatch
from cowstore.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cowstore.driver import Driver

DEFAULT_ROOT = "/var/lib/cowstore"
UNSHARED = "COWSTORE_UNSHARED"
"""Variable in which `cowstore unshare` tells programs, who are root there, where the user's store is."""
CATALOG = "catalog.db"
_SCRATCH = "trying-"
"""How the directories are called in which a driver is tried, locked by whoever does it."""
_PATH_MAX = 512 - len("/catalog.db.new-0123456789abcdef-journal") - 1
"""Bytes of the store's path, so that every name SQLite makes below it fits. Source: SQLite, SQLITE_MAX_PATHLEN."""
_CHOICE = ("overlay", "btrfs", "devicemapper", "copy")
"""Drivers tried for a new store that names none, the best first."""


def default_root() -> str:
    """Return where the store is when nobody says: system-wide for root, in the user's data directory for others."""
    if os.geteuid() == 0:
        return os.environ.get(UNSHARED) or DEFAULT_ROOT
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "cowstore")


def open(  # noqa: A001 - the name is part of the public surface: cowstore.open
    root: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
    *,
    driver: str | None = None,
    options: Mapping[str, object] | None = None,
    volatile: bool = False,
    read_only: bool = False,
    create: bool = True,
) -> Store:
    """Open the store at *root*, making it if it is not there; finishes or undoes what dead processes left in it.

    :param root: its directory; ``/var/lib/cowstore`` by default, ``$XDG_DATA_HOME/cowstore`` for an ordinary user.
    :param driver: its driver's name; by default the recorded one, for a new store the best that works there.
    :param options: options of the driver by name, values typed or as text.
    :param volatile: trade durability for speed: nothing is synced, and a power cut may cost the store.
    :param read_only: look only; nothing is written, not even what dead processes left.
    :param create: make it where it is not.
    :raises NotFound: it is not there, and *create* or *read_only* forbid to make it.
    :raises StoreMismatch: it belongs to another driver, a newer cowstore, or is no store at all.
    :raises DriverUnavailable: the driver does not work here; says what is missing.
    :raises StoreCorrupt: its catalog is damaged. :raises InvalidArgument: an unknown driver or option.
    """
    path = os.path.abspath(default_root() if root is None else os.fsdecode(root))
    if "\0" in path:
        raise InvalidArgument(f"the store's path {path!r} holds a NUL character", argument="root")
    if driver == "":
        raise InvalidArgument("the driver's name is empty; leave it out to use the recorded one", argument="driver")
    try:
        return _open(
            path, driver, options or {}, volatile=volatile, read_only=read_only, create=create and not read_only
        )
    except OSError as error:
        from cowstore._core import from_os

        if isinstance(error, PermissionError):
            from cowstore._access import blocked_at

            stopped = blocked_at(os.path.join(path, CATALOG))
            if stopped is not None:
                raise CowstoreError(
                    f"cannot open the store {path}: {stopped}; make it passable (chmod a+x), be its owner, or name "
                    "another store"
                ) from error
        raise from_os(error, f"cannot open the store {path}", path) from error


def _open(
    root: str, driver: str | None, options: Mapping[str, object], *, volatile: bool, read_only: bool, create: bool
) -> Store:
    catalog_path = os.path.join(root, CATALOG)
    _check_length(root)
    if not _is_there(root):
        if not create:
            raise NotFound(
                f"there is no store at {root}; `cowstore import` and `cowstore prepare` make one (in Python, "
                "create=True), or name another with --store",
                key=root,
            )
        _make(root, driver, options)
    catalog = Catalog(catalog_path, read_only=read_only, volatile=volatile)
    try:
        core = _from_catalog(root, catalog, driver, options, volatile=volatile, read_only=read_only)
    except BaseException:
        catalog.close()
        raise
    try:
        if not read_only:
            _settle(core)
    except BaseException:
        core.close()
        raise
    return Store(core)


def _settle(core: Core) -> None:
    """Finish or undo what dead processes left."""
    from cowstore import _recovery

    for name in os.listdir(core.root_fd):
        if name.startswith(f"{CATALOG}.new-"):
            # A draft of somebody who was killed, or who will find that another was first.
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=core.root_fd)
    _remove_scratch(core.root_fd)
    core.put_ballast()
    _recovery.note_boot(core)
    if _recovery.is_needed(core):
        for line in _recovery.recover(core):
            from cowstore._log import logger

            logger(__name__).info("%s: removed what a dead process left: %s", core.root, line)


def _check_length(root: str) -> None:
    """Refuse a path that the catalog could not be opened by.

    :raises InvalidArgument: it is too long.
    """
    length = len(os.fsencode(root))
    if length > _PATH_MAX:
        raise InvalidArgument(
            f"the store's path has {length} bytes, and {_PATH_MAX} is the most (SQLite's limit); "
            f"choose a shorter one: {root}",
            argument="root",
        )


def _is_there(root: str) -> bool:
    """Tell whether *root* is a store.

    :raises StoreMismatch: it is something else.
    """
    try:
        mode = os.stat(root).st_mode
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise StoreMismatch(
            f"cannot open the store {root}: {error.strerror}; name a directory", expected="a directory", found="a file"
        ) from error
    if not stat.S_ISDIR(mode):
        raise StoreMismatch(
            f"{root} is a file, not a store's directory; name a directory", expected="a directory", found="a file"
        )
    try:
        entries = set(os.listdir(root))
    except PermissionError as error:
        from cowstore._access import blocked_at

        stopped = blocked_at(os.path.join(root, CATALOG))
        raise CowstoreError(
            f"cannot open the store {root}: {stopped or error.strerror}; you (user {os.geteuid()}) may not read it: "
            "be its owner, or name another"
        ) from error
    if CATALOG in entries:
        return True
    own = _own_directories()
    if any(os.listdir(os.path.join(root, name)) for name in entries & own):
        # Nothing is put into them before the catalog is there.
        raise StoreCorrupt(
            f"the catalog of the store {root} is gone; put back a copy of {CATALOG}", path=os.path.join(root, CATALOG)
        )
    unknown = {name for name in entries if not name.startswith((f"{CATALOG}.new-", _SCRATCH))} - own
    if unknown:
        raise StoreMismatch(
            f"{root} is not empty and is no store (it holds {min(unknown)!r}); name an empty or a new directory",
            expected="a store, or an empty directory",
            found="a directory with other things in it",
        )
    return False


def _own_directories() -> set[str]:
    """Return what an interrupted making of a store may have left."""
    from cowstore.drivers import BUILT_IN

    return {"leases", "owners", MOUNT_POINTS, *BUILT_IN}


def _make(root: str, driver: str | None, options: Mapping[str, object]) -> None:
    """Make a store, whole or not at all."""
    made = _make_directories(root)
    _faults.point("store.make.directories")
    try:
        chosen = _choose(root, driver, options)
    except BaseException:
        for directory in [os.path.join(root, name) for name in ("leases", "owners", MOUNT_POINTS)] + made:
            try:
                os.rmdir(directory)
            except OSError:
                break
        raise
    _faults.point("store.make.probed")
    import json

    create_catalog(
        os.path.join(root, CATALOG),
        {
            "uuid": _uuid(),
            "driver": chosen.name,
            "options": json.dumps({name: str(value) for name, value in options.items()}, sort_keys=True),
        },
    )


def options_from(driver: type[Driver], given: Mapping[str, object]) -> object:
    """Make the driver's options from names and values, the values typed or as text.

    :raises InvalidArgument: an unknown name (the known ones are listed) or a value of the wrong sort.
    """
    if not given:
        return driver.Options()
    from cowstore.drivers._options import parse

    return parse(driver.Options, driver.name, given)


def _uuid() -> str:
    """Return a random UUID (RFC 9562, version 4), without the cost of importing :mod:`uuid`."""
    digits = bytearray(os.urandom(16))
    digits[6] = digits[6] & 0x0F | 0x40
    digits[8] = digits[8] & 0x3F | 0x80
    text = digits.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _make_directories(root: str) -> list[str]:
    """Make the store's directory with those above it; returns what was made, deepest first."""
    made: list[str] = []
    missing = root
    while not os.path.isdir(missing):
        made.append(missing)
        missing = os.path.dirname(missing)
    for directory in reversed(made):
        try:
            os.mkdir(directory, 0o700 if directory == root else 0o755)
        except FileExistsError:
            continue
    for name in ("leases", "owners", MOUNT_POINTS):
        try:
            os.mkdir(os.path.join(root, name), 0o700)
        except FileExistsError:
            continue
    return made


def _choose(root: str, driver: str | None, options: Mapping[str, object]) -> type[Driver]:
    """Return the driver for a new store, its directory made and found good.

    :raises DriverUnavailable: it, or every one of them, does not work here.
    """
    refused = []
    for name in _CHOICE if driver is None else (driver,):
        candidate = load(name)
        directory = os.path.join(root, name)
        try:
            parsed = options_from(candidate, options)
        except InvalidArgument:
            if driver is not None:
                raise
            continue
        if driver is None and not _suits(name, root, options):
            continue
        try:
            with _scratch(root) as scratch:
                _probe(candidate, scratch, root, parsed)
        except DriverUnavailable as error:
            if driver is not None:
                raise
            refused.append(str(error))
            continue
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        return candidate
    raise DriverUnavailable(
        f"no driver works in {root}: " + "; ".join(refused or ["no driver takes these options"]), missing=refused
    )


def _probe(driver: type[Driver], scratch: str, root: str, options: object) -> None:
    """Try a driver; a refusal names the store, not the directory it was tried in."""
    from cowstore._rootless.verbs import probe

    try:
        probe(driver, scratch, options)
    except DriverUnavailable as error:
        raise DriverUnavailable(
            str(error).replace(scratch, root),
            driver=error.driver,
            missing=[text.replace(scratch, root) for text in error.missing],
        ) from error.__cause__


@contextmanager
def _scratch(root: str) -> Iterator[str]:
    """Make a directory in which a driver can be tried; it goes in the end, or, after a kill, when the next one is made.

    The driver's own directory must stay empty until there is a catalog: data without one are a damaged store.
    """
    from cowstore.trees.remove import remove_tree

    with ExitStack() as stack:
        parent = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, parent)
        _remove_scratch(parent)
        while True:
            name = _SCRATCH + os.urandom(8).hex()
            os.mkdir(name, 0o700, dir_fd=parent)
            with suppress(FileNotFoundError):
                held = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
                stack.callback(os.close, held)
                fcntl.flock(held, fcntl.LOCK_EX)
                # Before it was locked somebody else may have taken it for abandoned.
                if os.fstat(held).st_nlink:
                    break
        try:
            yield os.path.join(root, name)
        finally:
            remove_tree(parent, name)


def _remove_scratch(root_fd: int) -> None:
    """Remove what killed processes left of :func:`_scratch`."""
    for name in os.listdir(root_fd):
        if not name.startswith(_SCRATCH):
            continue
        from cowstore.trees.remove import remove_tree

        with suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(root_fd, name)
            finally:
                os.close(fd)


def _suits(name: str, root: str, options: Mapping[str, object]) -> bool:
    """Tell whether an unnamed driver should be tried: Btrfs only on one, device-mapper only where a pool is given."""
    if name == "btrfs":
        from cowstore._linux.files import FsMagic, statfs

        return statfs(root).type == FsMagic.BTRFS
    if name == "devicemapper":
        return bool(options)
    return True


def _from_catalog(
    root: str, catalog: Catalog, driver: str | None, options: Mapping[str, object], *, volatile: bool, read_only: bool
) -> Core:
    """Return the inside of the store that the catalog describes.

    :raises StoreMismatch: another driver was asked for.
    """
    meta = catalog.meta()
    recorded = meta.get("driver", "")
    if not recorded:
        raise StoreCorrupt(
            f"the catalog {catalog.path} names no driver; `cowstore destroy` removes the store", path=catalog.path
        )
    if driver is not None and driver != recorded:
        raise StoreMismatch(
            f"the store {root} belongs to the driver {recorded!r}, and {driver!r} was asked for; "
            f"open it without naming a driver, or copy it with `cowstore migrate --to {driver}`",
            expected=recorded,
            found=driver,
        )
    driver_type = load(recorded)
    given: dict[str, object] = {}
    if meta.get("options", "{}") != "{}":
        import json

        given.update(json.loads(meta["options"]))
    given.update(options)
    return Core(root, catalog, driver_type, options_from(driver_type, given), volatile=volatile, read_only=read_only)
