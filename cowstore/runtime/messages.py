"""What process 1 tells its launcher, and a launcher its owner: small tuples over a pipe, complete or not at all.

:mod:`marshal` is in every interpreter and costs no import; both ends are one process and its child.
"""

from __future__ import annotations

import marshal
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LAUNCHER_FAILED = 125
"""Exit status of what failed before there was a program."""

RUNNING = "running"
"""(RUNNING,): the program was executed."""
FAILED = "failed"
"""(FAILED, status, text): there will be no program; what its launcher should exit with, and why."""
ENDED = "ended"
"""(ENDED, wait status): the program has ended, and with it all that it left running."""
OUTCOME = "outcome"
"""(OUTCOME, names and values): all that became of a run, from a launcher in another process."""
TERMINAL = "terminal"
"""(TERMINAL, descriptor): process 1 has opened a terminal, and waits until the launcher has taken it over."""
NETWORK = "network"
"""(NETWORK,): process 1 waits until a helper has connected its network; the launcher answers only if that fails."""
ROOT = "root"
"""(ROOT, process, descriptor): all inside have ended, and a launcher waits until its owner has done with the root."""
WARNING = "warning"
"""(WARNING, text): something to tell people."""

_HEAD = struct.Struct("<I")
_MOST = 4000  # below PIPE_BUF, so that no message is torn


def send(fd: int, *message: object) -> None:
    """Write one message; an end that is gone is none of the writer's business."""
    content = marshal.dumps(message)  # type: ignore[arg-type]  # plain values only
    try:
        os.write(fd, _HEAD.pack(len(content)) + content)
    except BrokenPipeError:
        return


def fail(fd: int, status: int, text: str) -> None:
    """Write a FAILED message."""
    send(fd, FAILED, status, text.encode(errors="surrogateescape")[:_MOST].decode(errors="surrogateescape"))


class Reader:
    """Takes messages from bytes as they arrive."""

    def __init__(self) -> None:
        self._content = b""

    def feed(self, content: bytes) -> Iterator[tuple[object, ...]]:
        """Add what was read, and return the messages that are complete now."""
        self._content += content
        while len(self._content) >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._content)
            end = _HEAD.size + length
            if len(self._content) < end:
                return
            message = marshal.loads(self._content[_HEAD.size : end])  # noqa: S302  # from our own child
            self._content = self._content[end:]
            yield message


def explain(error: OSError) -> str:
    """Say in one line what the kernel refused."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) and error.filename else ""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{where}{error.strerror}" + (f" ({notes})" if notes else "")
