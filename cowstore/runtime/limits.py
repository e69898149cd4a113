"""How much of the machine a container may use."""

from __future__ import annotations

from cowstore._frozen import frozen
from cowstore.errors import InvalidArgument


@frozen
class Limits:
    """Bounds for all processes of a container together; None is no bound.

    :ivar memory_bytes: memory, swap included. :ivar cpus: processors' worth of time, such as 0.5.
    :ivar pids: processes and threads, process 1 included. :ivar io_weight: share of the disks, 1 to 10000; else 100.
    :ivar best_effort: where this machine cannot enforce a bound, say so and go on, instead of failing.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    io_weight: int | None = None
    best_effort: bool = False

    def check(self) -> Limits:
        """Return these limits.

        :raises InvalidArgument: one makes no sense.
        """
        if self.memory_bytes is not None and self.memory_bytes < 1 << 20:
            raise InvalidArgument(
                f"{self.memory_bytes} bytes of memory are too few to run anything: at least 1M", argument="memory"
            )
        if self.cpus is not None and not 0.01 <= self.cpus <= 8192:
            raise InvalidArgument(f"{self.cpus} is no number of processors: 0.01 or more", argument="cpus")
        if self.pids is not None and not 2 <= self.pids <= 4194304:
            raise InvalidArgument(f"{self.pids} is no number of processes: 2 or more", argument="pids")
        if self.io_weight is not None and not 1 <= self.io_weight <= 10000:
            raise InvalidArgument(f"{self.io_weight} is no weight: 1 to 10000", argument="io_weight")
        return self

    @property
    def any(self) -> bool:
        """Whether there is a bound at all."""
        return any(value is not None for value in (self.memory_bytes, self.cpus, self.pids, self.io_weight))
