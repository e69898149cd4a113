"""What is given back of a run."""

from __future__ import annotations

from cowstore._frozen import frozen


@frozen
class Result:
    """What became of a program.

    :ivar status: what a shell would say: the program's own exit status, 128 and the signal that ended it, 127 where
        there is no such program, 126 where it cannot be executed.
    :ivar signal: the signal that ended it, or None.
    :ivar out: what it wrote to standard output, where that was captured. :ivar err: the same of standard error.
    :ivar key: the snapshot it ran on; of a throw-away one, the key it had.
    :ivar failure: why there was no program (status 126 and 127), or None.
    :ivar timed_out: its time was over.
    :ivar warnings: what the launcher had to remark.
    """

    status: int
    signal: int | None
    out: bytes | None
    err: bytes | None
    key: str
    failure: str | None = None
    timed_out: bool = False
    warnings: tuple[str, ...] = ()
