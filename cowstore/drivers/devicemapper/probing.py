"""Finding out whether this machine can have a thin pool."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile

from cowstore import _programs
from cowstore._linux import dm, loop
from cowstore.drivers.devicemapper import filesystem, nodes
from cowstore.errors import DriverUnavailable

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
    if options.data_device is None and options.thin_pool is None:
        try:
            loop.open_control(nodes.find(directory)(loop.CONTROL, _LOOP_CONTROL)).close()
        except OSError as error:
            missing.append(
                f"no loop devices: {error}; load the module (modprobe loop), or give data_device and metadata_device"
            )
    if missing:
        raise DriverUnavailable("; ".join(missing), driver="devicemapper", missing=missing)


def probe(directory: str, options: Options) -> None:
    """Reach device-mapper, load its targets, and attach a file in *directory* to a loop device for a moment.

    No pool is made: the kernel would keep it, were this process killed. Making the store's own undoes itself.

    :raises DriverUnavailable: a pool could not be made.
    """
    from cowstore.drivers.devicemapper import opening

    scratch = tempfile.mkdtemp(prefix=".probe-", dir=directory)
    try:
        with opening.reach_control(scratch) as control:
            require(options, control, scratch)
        if options.data_device is None and options.thin_pool is None:
            with tempfile.TemporaryFile(dir=scratch) as file:
                file.truncate(1 << 20)
                loop.attach(file, node=nodes.find(scratch)).close()
    except OSError as error:
        text = f"a file in {directory} cannot be attached to a loop device: {error}"
        raise DriverUnavailable(text, driver="devicemapper", missing=[text]) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
