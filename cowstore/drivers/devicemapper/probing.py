"""Finding out whether this machine can have a thin pool, by making one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile

from cowstore import _programs
from cowstore._linux import dm, loop
from cowstore.drivers.devicemapper import filesystem, nodes
from cowstore.errors import CowstoreError, DriverUnavailable

_LOOP_CONTROL = os.makedev(loop.CONTROL_MAJOR, loop.CONTROL_MINOR)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux.fd import Descriptor
    from cowstore.drivers.devicemapper.options import Options


def require(options: Options, control: Descriptor, directory: str) -> None:
    """Make sure that a pool can be made here.

    :raises DriverUnavailable: listing all that is missing.
    """
    missing = []
    for target in ("thin-pool", "thin"):
        try:
            dm.get_target_version(control, target)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                missing.append(
                    f"the kernel has no {target} target: load it (modprobe dm_thin_pool), or use another kernel"
                )
                break
    program = filesystem.program(options)
    if _programs.find(program) is None:
        missing.append(_programs.missing(program))
    if options.data_device is None:
        try:
            loop.open_control(nodes.find(directory)(loop.CONTROL, _LOOP_CONTROL)).close()
        except OSError as error:
            missing.append(
                f"no loop devices: {error}; load the module (modprobe loop), or give data_device and metadata_device"
            )
    if missing:
        raise DriverUnavailable("; ".join(missing), driver="devicemapper", missing=missing)


def probe(directory: str, options: Options) -> None:
    """Make a tiny pool with one thin device in *directory*, and take it away again.

    :raises DriverUnavailable: it could not be made.
    """
    from cowstore.drivers.devicemapper import opening, record
    from cowstore.drivers.devicemapper.pool import Pool
    from cowstore.drivers.devicemapper.thin import Thins

    scratch = tempfile.mkdtemp(prefix=".probe-", dir=directory)
    try:
        control = opening.reach_control(scratch)
        with control:
            require(options, control, scratch)
            small = type(options)(data_bytes=1 << 20, metadata_bytes=2 << 20, file_system=options.file_system)
            opening.make_files(scratch, small)
            pool = Pool(scratch, record.new(small), small, control)
            thins = Thins(pool)
            try:
                pool.activate(create=True)
                pool.message("create_thin 0")
                thins.activate(0, 1 << 20, read_only=False)
            finally:
                thins.deactivate(0, defer=True)
                pool.deactivate()
    except (OSError, CowstoreError) as error:
        if isinstance(error, DriverUnavailable):
            raise
        text = f"a thin pool cannot be made in {directory}: {error}"
        raise DriverUnavailable(text, driver="devicemapper", missing=[text]) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
