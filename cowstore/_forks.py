"""Whether this process is the one that opened something, without asking the kernel: getpid(2) is a call each time."""

from __future__ import annotations

import os

generation = 0
"""How many forks lie between this process and the one that imported this; the same as long as the process is."""


def _count() -> None:
    global generation
    generation += 1


os.register_at_fork(after_in_child=_count)
