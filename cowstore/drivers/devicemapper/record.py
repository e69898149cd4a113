"""What is written down of a pool when it is made, and of each id: a line of text each, never changed half-way.

``pool`` says what the pool is. ``ids/<id>`` is a symbolic link whose text is the id's parent, its size and whether it
is sealed; a link is made and replaced in one step, needs no other block of the disk, and shows in ``ls -l``.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, replace

from cowstore.drivers.devicemapper.filesystem import text_of_uuid
from cowstore.drivers.devicemapper.options import FileSystem, Options
from cowstore.errors import StoreCorrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

POOL = "pool"
IDS = "ids"
DOOMED = "doomed"
"""Directory of the links of ids that are removed, but whose device somebody still holds."""


class Claim(enum.StrEnum):
    """Whose a device of the base's number in a borrowed pool is, if there is one."""

    LOOKING = "looking"
    """Another's: nothing was made yet."""
    TAKING = "taking"
    """There was none; now this store's, or another's that came meanwhile."""
    TAKEN = "taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecord:
    """One pool.

    :ivar uuid: names the pool, its devices, and the base's file system.
    :ivar thin_pool: name of another's pool in which the devices are. :ivar first_id: number of the base in it.
    :ivar claim: how far the store has come in taking that number.
    :ivar data_bytes: what the option was, as the three after it; nothing but :func:`fixed` asks. 0 where not known.
    :ivar complete: the base is there. A pool whose making was cut off is made anew.
    """

    uuid: str
    block_bytes: int
    base_bytes: int
    file_system: FileSystem
    data_device: str
    metadata_device: str
    complete: bool
    thin_pool: str = ""
    first_id: int = 0
    claim: Claim = Claim.TAKEN
    data_bytes: int = 0
    metadata_bytes: int = 0
    bytes_per_inode: int = 0
    journal_bytes: int = 0

    @property
    def on_files(self) -> bool:
        return not self.data_device and not self.thin_pool


_CHOSEN = ("data_bytes", "metadata_bytes", "bytes_per_inode", "journal_bytes")
"""What is written down only to tell when something else is wanted later; the first two of files, the others of ext4."""


def new(options: Options) -> PoolRecord:
    """Make the record of a pool that is to be."""
    raw = bytearray(os.urandom(16))
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
    return PoolRecord(
        uuid=text_of_uuid(bytes(raw)),
        block_bytes=options.block_bytes,
        base_bytes=options.base_bytes - options.base_bytes % options.block_bytes,
        file_system=options.file_system,
        data_device=os.path.abspath(options.data_device) if options.data_device else "",
        metadata_device=os.path.abspath(options.metadata_device) if options.metadata_device else "",
        complete=False,
        thin_pool=os.path.basename(options.thin_pool) if options.thin_pool else "",
        **{name: getattr(options, name) for name in _CHOSEN},
    )


def fixed(known: PoolRecord, options: Options) -> dict[str, tuple[object, object]]:
    """List what the options want otherwise than it is recorded, by name: what is recorded, and what is wanted.

    On another's pool the block is that pool's, and the base is rounded to it. Devices are looked for where they are.
    """
    wanted = new(options)
    names = ["file_system"]
    if not (known.data_device and wanted.data_device):
        names += ["data_device", "metadata_device"]
    if not (known.thin_pool and wanted.thin_pool):
        names.append("thin_pool")
    if not known.thin_pool:
        names += ["block_bytes", "base_bytes"]
    chosen = _CHOSEN[0 if known.on_files else 2 : 4 if known.file_system is FileSystem.EXT4 else 2]
    names += [name for name in chosen if getattr(known, name)]
    different = {name: (getattr(known, name), getattr(wanted, name)) for name in names}
    return {name: (was, want) for name, (was, want) in different.items() if was != want}


def moved(known: PoolRecord, options: Options) -> PoolRecord | None:
    """Make the record of a pool whose devices are where the options say; None where these say nothing else."""
    wanted = new(options)
    if not known.data_device or not wanted.data_device:
        return None
    other = replace(known, data_device=wanted.data_device, metadata_device=wanted.metadata_device)
    return None if other == known else other


def write(directory: str, record: PoolRecord) -> None:
    """Write the record in one step, and onto the disk."""
    text = "".join(f"{name} {_as_text(getattr(record, name))}\n" for name in PoolRecord.__dataclass_fields__)
    path = os.path.join(directory, POOL)
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, os.fsencode(text))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path + ".new", path)
    sync(directory)


def forget(directory: str) -> None:
    """Remove the record; nothing happens where there is none."""
    for name in (POOL + ".new", POOL):
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            continue


def _as_text(value: object) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def read(directory: str) -> PoolRecord | None:
    """Read the record; None where no pool was made yet.

    :raises StoreCorrupt: it makes no sense.
    """
    path = os.path.join(directory, POOL)
    try:
        with open(path, "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
    except FileNotFoundError:
        return None
    told = {name: value for name, _, value in (line.partition(" ") for line in lines)}
    try:
        return PoolRecord(
            uuid=told["uuid"],
            block_bytes=int(told["block_bytes"]),
            base_bytes=int(told["base_bytes"]),
            file_system=FileSystem(told["file_system"]),
            data_device=told["data_device"],
            metadata_device=told["metadata_device"],
            complete=told["complete"] == "yes",
            thin_pool=told.get("thin_pool", ""),
            first_id=int(told.get("first_id", "0")),
            claim=Claim(told.get("claim", "taken")),
            **{name: int(told.get(name, "0")) for name in _CHOSEN},
        )
    except (KeyError, ValueError) as error:
        raise StoreCorrupt(f"{path} is no record of a pool: {error}; restore it from a backup", path=path) from error


def sync(directory: str) -> None:
    """Make what was renamed or made in a directory last."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRecord:
    """One id.

    :ivar parent: the thin id it is a snapshot of; 0 is the base. :ivar size_bytes: size of its device.
    :ivar sealed: it is immutable. :ivar lost: something written to it is lost; it can never be sealed.
    """

    parent: int
    size_bytes: int
    sealed: bool = False
    lost: bool = False

    def seal(self) -> IdRecord:
        return replace(self, sealed=True)

    def lose(self) -> IdRecord:
        return replace(self, lost=True)

    def resize(self, size_bytes: int) -> IdRecord:
        return replace(self, size_bytes=size_bytes)


class Ids:
    """The links of a driver's directory."""

    def __init__(self, directory: str) -> None:
        self._directory = os.path.join(directory, IDS)
        self._doomed = os.path.join(directory, DOOMED)

    def make(self) -> None:
        for path in (self._directory, self._doomed):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def path(self, id: int) -> str:
        return os.path.join(self._directory, str(id))

    def get(self, id: int) -> IdRecord | None:
        """Read an id's record; None where it has none.

        :raises StoreCorrupt: it makes no sense.
        """
        return self._read(self.path(id))

    def get_doomed(self, id: int) -> IdRecord | None:
        """Read the record of an id that may have been set aside; as :meth:`get`."""
        return self._read(self.path(id)) or self._read(os.path.join(self._doomed, str(id)))

    def _read(self, path: str) -> IdRecord | None:
        try:
            text = os.readlink(path)
        except FileNotFoundError:
            return None
        try:
            parent, size, state = text.split(" ")
            if state not in {"active", "sealed", "lost"}:
                raise ValueError(state)
            sealed, lost = state == "sealed", state == "lost"
            return IdRecord(parent=int(parent), size_bytes=int(size), sealed=sealed, lost=lost)
        except ValueError as error:
            raise StoreCorrupt(
                f"{path} is no record of a snapshot: {text!r}; see `cowstore check`", path=path
            ) from error

    def add(self, id: int, record: IdRecord) -> bool:
        """Make an id's record; False where it has one already."""
        try:
            os.symlink(_link_text(record), self.path(id))
        except FileExistsError:
            return False
        return True

    def put(self, id: int, record: IdRecord) -> None:
        """Replace an id's record. The caller holds the id's lock."""
        relink(self.path(id), _link_text(record))

    def drop(self, id: int) -> None:
        """Remove an id's record, wherever it is; nothing happens where there is none."""
        for directory in (self._directory, self._doomed):
            try:
                os.unlink(os.path.join(directory, str(id)))
            except FileNotFoundError:
                continue

    def doom(self, id: int) -> None:
        """Set an id aside: it is removed as soon as nobody holds its device."""
        try:
            os.rename(self.path(id), os.path.join(self._doomed, str(id)))
        except FileNotFoundError:
            return

    def is_doomed(self, id: int) -> bool:
        return os.path.lexists(os.path.join(self._doomed, str(id)))

    def sync(self) -> None:
        """Make the records last."""
        sync(self._directory)

    def __iter__(self) -> Iterator[int]:
        return _numbers(self._directory)

    def doomed(self) -> list[int]:
        return list(_numbers(self._doomed))


def relink(path: str, text: str) -> None:
    """Let a symbolic link hold another text, in one step. Of two at once one may fail; the link is whole then, too."""
    temporary = path + ".new"
    try:
        os.symlink(text, temporary)
    except FileExistsError:
        os.unlink(temporary)
        os.symlink(text, temporary)
    os.rename(temporary, path)


def _link_text(record: IdRecord) -> str:
    state = "sealed" if record.sealed else "lost" if record.lost else "active"
    return f"{record.parent} {record.size_bytes} {state}"


def _numbers(directory: str) -> Iterator[int]:
    return (int(name) for name in os.listdir(directory) if name.isdigit())
