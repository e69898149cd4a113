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
    :ivar out_of_memory: the kernel ended a process of it for want of memory.
    :ivar peak_memory_bytes: the most memory it had at once; without a limit, that of its largest process.
    :ivar cpu_seconds: time that processors spent on it.
    """

    status: int
    signal: int | None
    out: bytes | None
    err: bytes | None
    key: str
    failure: str | None = None
    timed_out: bool = False
    warnings: tuple[str, ...] = ()
    out_of_memory: bool = False
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
