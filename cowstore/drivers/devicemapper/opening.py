"""Opening the pool of a directory: making it, taking over what a killed process left, ending it."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import replace

from cowstore import _faults
from cowstore.drivers.devicemapper import base, events, identity, record
from cowstore.drivers.devicemapper.borrowed import BorrowedPool, borrow, claiming
from cowstore.drivers.devicemapper.host import allocate
from cowstore.drivers.devicemapper.locks import OPENING, locked
from cowstore.drivers.devicemapper.nodes import NODES, open_control
from cowstore.drivers.devicemapper.pool import Pool
from cowstore.drivers.devicemapper.status import DATA, METADATA
from cowstore.drivers.devicemapper.thin import Thins
from cowstore.errors import (
    Busy,
    CowstoreError,
    DriverUnavailable,
    InvalidArgument,
    OutOfSpace,
    StoreCorrupt,
    StoreMismatch,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux.fd import Descriptor
    from cowstore.drivers.devicemapper.locks import UserLock
    from cowstore.drivers.devicemapper.options import Options


_HEAD = 1 << 20


def open_pool(directory: str, options: Options, *, read_only: bool) -> tuple[Pool, Thins]:
    """Activate the directory's pool, making it where there is none.

    :raises DriverUnavailable: the kernel, a program or a device is missing; nothing was made.
    """
    control = reach_control(directory)
    try:
        known = record.read(directory)
        if known is None or not known.complete:
            if read_only:
                raise StoreCorrupt(f"{directory} holds no pool, and none is made in read-only mode", path=directory)
            known = _make(directory, options, control, known)
        pool, activated = _activated(directory, known, options, control)
        thins = Thins(pool)
        if activated:
            try:
                base.check(pool, thins)
            except BaseException:
                pool.deactivate()
                raise
        elif not read_only:
            pool.follow_options()
        if pool.record != known and not read_only:
            record.write(directory, pool.record)
        _say_what_stays(pool.record, options)
    except BaseException:
        control.close()
        raise
    return pool, thins


def _activated(directory: str, known: record.PoolRecord, options: Options, control: Descriptor) -> tuple[Pool, bool]:
    """Activate a pool; where its devices are not where they were, those that the options name are tried.

    Of options that differ from the record nobody knows which are newer: the catalog has those of the first day.
    """
    pool = _pool(directory, known, options, control)
    # The base is only ever active under the lock that this holds: it was left by a killed process.
    Thins(pool).deactivate(base.BASE, defer=False)
    try:
        return pool, pool.activate()
    except (StoreCorrupt, StoreMismatch) as error:
        elsewhere = record.moved(known, options)
        if elsewhere is None:
            raise
        pool = _pool(directory, elsewhere, options, control)
        try:
            return pool, pool.activate()
        except CowstoreError as second:
            raise second from error


def _say_what_stays(known: record.PoolRecord, options: Options) -> None:
    """Log which options differ from what was fixed when the pool was made: they are not looked at."""
    stay = record.fixed(known, options)
    if stay:
        from cowstore._log import logger

        told = ", ".join(f"{name}={was} (not {wanted})" for name, (was, wanted) in stay.items())
        logger(__name__).warning("the pool of %s was made with %s, and keeps that", known.uuid, told)


def reach_control(directory: str) -> Descriptor:
    """Open device-mapper's control device.

    :raises DriverUnavailable: it cannot be reached.
    """
    try:
        return open_control(directory)
    except OSError as error:
        text = f"device-mapper cannot be reached: {error}; it needs root, and a kernel that has it (modprobe dm_mod)"
        raise DriverUnavailable(text, driver="devicemapper", missing=[text]) from error


def _make(
    directory: str, options: Options, control: Descriptor, unfinished: record.PoolRecord | None
) -> record.PoolRecord:
    """Make the pool and its base; undone on failure. One whose making was cut off is made anew."""
    from cowstore.drivers.devicemapper.probing import require

    require(options, control, directory)
    if unfinished is not None:
        with claiming(unfinished, control, directory):
            _unmake(_pool(directory, unfinished, options, control))
    fresh = record.new(options)
    if fresh.on_files:
        make_files(directory, options)
    elif fresh.data_device:
        if unfinished is not None:
            _clear_devices(unfinished)
        _take_devices(fresh, options)
    with claiming(fresh, control, directory):
        if fresh.thin_pool:
            fresh = borrow(fresh, options, control, directory)
        return _fill(fresh, options, control, directory)


def _fill(fresh: record.PoolRecord, options: Options, control: Descriptor, directory: str) -> record.PoolRecord:
    """Make the base on what is there for the pool."""
    record.write(directory, fresh)
    _faults.point("devicemapper.make.recorded")
    pool = _pool(directory, fresh, options, control)
    try:
        record.Ids(directory).make()
        pool.activate(create=True)
        _faults.point("devicemapper.make.activated")
        base.make(pool, Thins(pool))
        _faults.point("devicemapper.make.base")
        if fresh.data_device:
            _mark(pool)
        complete = replace(fresh, complete=True)
        record.write(directory, complete)
    except BaseException as error:
        full = pool.host_full()
        _unmake(pool)
        if full is not None and isinstance(error, (OSError, CowstoreError)):
            raise full from error
        raise
    return complete


def _mark(pool: Pool) -> None:
    """End a pool on given devices for the moment that it takes to write into its metadata whose it is."""
    if not pool.deactivate():
        raise Busy(f"the pool {pool.name} was opened by somebody else while it was made; try again")
    identity.mark(pool)
    _faults.point("devicemapper.make.marked")


def _pool(directory: str, known: record.PoolRecord, options: Options, control: Descriptor) -> Pool:
    kind = BorrowedPool if known.thin_pool else Pool
    return kind(directory, known, options, control)


def make_files(directory: str, options: Options) -> None:
    """Make the pool's two files: the data file sparse, that of the metadata with all its blocks.

    :raises OutOfSpace: there is no room for these; none is left behind.
    """
    try:
        for name, size in ((DATA, options.data_bytes), (METADATA, options.metadata_bytes)):
            unit = options.block_bytes if name == DATA else 4096
            fd = os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, size - size % unit)
                if name == METADATA:
                    allocate(fd)
                os.fsync(fd)
            finally:
                os.close(fd)
    except OSError as error:
        for name in (DATA, METADATA):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        if error.errno != errno.ENOSPC:
            raise
        raise OutOfSpace(
            f"the pool's metadata of {options.metadata_bytes} bytes, which has all its blocks from the start, finds no "
            f"room on the file system of {directory}: make room there, or give a smaller metadata_bytes"
        ) from error


def _clear_devices(unfinished: record.PoolRecord) -> None:
    """Clear from given devices what a making of this store left that was cut off, and nothing else."""
    from cowstore.drivers._guard import THIN_POOL, describe

    for path in (unfinished.data_device, unfinished.metadata_device):
        found = describe(path) if path else None
        if found is None or found.uses:
            continue
        if found.holds == THIN_POOL or unfinished.uuid in found.holds:
            _wipe(path)


def _take_devices(fresh: record.PoolRecord, options: Options) -> None:
    """Make sure that nobody uses the given devices, and clear what tells that they held something else.

    The kernel formats a pool whose metadata begins with zeros.
    """
    from cowstore.drivers._guard import claim, settle

    settle()
    data, metadata = (claim(path, force=options.force) for path in (fresh.data_device, fresh.metadata_device))
    if data.dev == metadata.dev:
        raise InvalidArgument(
            f"data_device {data.path} and metadata_device {metadata.path} are one device "
            f"({os.major(data.dev)}:{os.minor(data.dev)}): a pool needs two. Nothing was written to it",
            argument="metadata_device",
        )
    for path in (fresh.data_device, fresh.metadata_device):
        _wipe(path)


def _wipe(path: str) -> None:
    """Write zeros to both ends of a device, where signatures lie."""
    fd = os.open(path, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC)
    try:
        end = os.lseek(fd, 0, os.SEEK_END)
        os.pwrite(fd, bytes(min(_HEAD, end)), 0)
        os.pwrite(fd, bytes(min(_HEAD, end)), max(0, end - _HEAD))
        os.fsync(fd)
    finally:
        os.close(fd)


def _unmake(pool: Pool) -> None:
    """Take away a pool that never became whole."""
    thins = Thins(pool)
    thins.deactivate(base.BASE, defer=True)
    pool.deactivate()
    remove_files(pool)


def remove_files(pool: Pool) -> None:
    """Remove what the driver made in its directory, the record last but for the locks."""
    pool.give_back()
    directory = pool.directory
    for name in (record.IDS, record.DOOMED, NODES):
        with suppress(FileNotFoundError):
            for entry in os.listdir(os.path.join(directory, name)):
                os.unlink(os.path.join(directory, name, entry))
            os.rmdir(os.path.join(directory, name))
    for name in [events.NAME, *([DATA, METADATA] if pool.record.on_files else [])]:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    record.forget(directory)


def destroy_pool(pool: Pool, lock: UserLock | None) -> None:
    """End the pool and remove what was made for it.

    :raises Busy: one of its devices is mounted.
    """
    with locked(pool.directory, OPENING):
        if not pool.deactivate():
            raise Busy(f"the pool {pool.name} is still in use; unmount what is mounted of it, then try again")
        remove_files(pool)
        if lock is not None:
            lock.close()
            pool.control.close()
    for name in ("lock", "ids.lock"):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(pool.directory, name))


def close_pool(pool: Pool, lock: UserLock) -> None:
    """Let go of the pool; whoever is last ends it, unless one of its devices is mounted or it is to be kept."""
    try:
        with locked(pool.directory, OPENING):
            if not pool.options.keep_active and lock.is_last():
                pool.deactivate()
            lock.close()
    finally:
        lock.close()
        pool.control.close()
