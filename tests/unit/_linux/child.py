"""Running a piece of a test in a child, where what cannot be undone goes with the process."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def end_child(body: Callable[[], object]) -> None:
    """Run body in a process that has just been forked, and end it: 0, or 1 with the traceback on standard error."""
    status = 1
    try:
        body()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def in_child(body: Callable[[], object]) -> None:
    """Run body in a forked child; fails with the child's traceback where it raises.

    What it asserts is asserted there. It must not return by leaving the process in any other way.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write_end, 2)
        os.close(read_end)
        end_child(body)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        said = stream.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said
