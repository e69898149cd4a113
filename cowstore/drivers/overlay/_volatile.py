"""The mark that a volatile mount leaves in the scratch directory, and with which the kernel refuses the next one.

It stands for "not written out when the machine went down", and so means something only after that.
"""

from __future__ import annotations

import os
import time

from cowstore.errors import StoreCorrupt

__all__ = ["clear_mark", "open_up", "take_mark_away"]

MARK = "work/incompat/volatile"

_SLACK_SECONDS = 60
"""How far the clock may have been set since the machine started."""


def clear_mark(work: str, *, keeps: bool) -> None:
    """Take the mark away, so that a layer can be mounted again.

    :param work: the scratch directory. :param keeps: what is in the store must survive a crash.
    :raises StoreCorrupt: it is from before the machine restarted, and *keeps*.
    """
    mark = os.path.join(work, MARK)
    try:
        left = os.stat(mark).st_mtime
    except FileNotFoundError:
        return
    if left < time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - _SLACK_SECONDS:
        if keeps:
            raise StoreCorrupt(
                f"cannot mount {os.path.dirname(work)}: it was mounted as throw-away before the machine restarted, "
                f"and what was written to it may be damaged; remove the snapshot, or, to use it all the same, "
                f"delete {mark}",
                path=work,
            )
        from cowstore._log import logger

        logger(__name__).warning("%s was in use when the machine restarted and may be damaged (volatile store)", work)
    take_mark_away(work)


def open_up(work: bytes) -> None:
    """Let an ordinary user look into his own scratch directory: the kernel makes the inner one without any rights."""
    try:
        os.chmod(work + b"/work", 0o700)
    except OSError:
        return  # not there yet; or of one of his further ids, whose namespace he needs in any case


def take_mark_away(work: str) -> None:
    """Remove the mark and the directory it is in."""
    for remove, part in ((os.unlink, f"{MARK}/dirty"), (os.rmdir, MARK), (os.rmdir, os.path.dirname(MARK))):
        try:
            remove(os.path.join(work, part))
        except FileNotFoundError:
            pass
