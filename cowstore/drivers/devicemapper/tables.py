"""Swapping the table of a device that is in use, and what becomes of a device when a step on it fails.

An error is never lost behind another: that of cleaning up after it is a note on it.
"""

from __future__ import annotations

from cowstore._linux import dm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux.fd import Descriptor


def swap_table(control: Descriptor, name: str, flags: dm.DmFlag = dm.DmFlag.NONE) -> None:
    """Let an active device go on with the table that was loaded; its I/O waits meanwhile.

    The kernel stops it, swaps and resumes at one request. In two requests, whoever is killed between them leaves it
    stopped, and everybody who waits for its I/O, perhaps with a lock in hand, out of reach of signals.
    """
    try:
        dm.dev_resume(control, name, flags=flags)
    except BaseException as error:
        # The table is dropped when it is refused after the stop; what works is then the old one.
        go_on(control, name, error, flags)
        raise


def go_on(control: Descriptor, name: str, error: BaseException, flags: dm.DmFlag = dm.DmFlag.NONE) -> None:
    """Resume a device after an error, which is what is told; that this fails too is a note on it."""
    try:
        dm.dev_resume(control, name, flags=flags)
    except OSError as second:
        error.add_note(f"the device {name} could not be resumed either, and may be stopped: {second}")


def take_away(control: Descriptor, name: str, error: BaseException) -> None:
    """Remove a device that was being made when an error came, which is what is told; as :func:`go_on`."""
    try:
        dm.dev_remove(control, name)
    except OSError as second:
        error.add_note(f"the device {name} could not be taken away either: {second}")
