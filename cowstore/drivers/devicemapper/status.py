"""What the kernel tells of a thin pool: how full it is, and in which mode.

Source: Documentation/admin-guide/device-mapper/thin-provisioning.rst, "Status".
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux.dm import Info

DATA, METADATA = "data", "metadata"
METADATA_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Fill levels in bytes, and the pool's mode: ``rw``, ``ro``, ``out_of_data_space`` or ``Fail``.

    :ivar events: how often the kernel has called since the pool was activated: the low-water mark was reached, or the
        mode has changed.
    :ivar active: how many thin devices of it there are now, as far as the kernel counts who has the pool open.
    """

    transaction: int
    metadata_used: int
    metadata_total: int
    data_used: int
    data_total: int
    held_root: int | None
    mode: str
    needs_check: bool
    discards_pass_down: bool
    fails_when_full: bool
    events: int
    active: int

    @property
    def is_full(self) -> bool:
        """Whether a write that needs another block fails now."""
        return self.mode != "rw" or not self.free(DATA)

    def free(self, what: str) -> int:
        if what == DATA:
            return self.data_total - self.data_used
        return self.metadata_total - self.metadata_used


def read_status(words: list[str], block_bytes: int, info: Info) -> PoolStatus:
    """Read the words of a pool's status line; not those of one that has failed, which has fewer."""
    metadata_used, metadata_total = (int(word) * METADATA_BLOCK for word in words[1].split("/"))
    data_used, data_total = (int(word) * block_bytes for word in words[2].split("/"))
    return PoolStatus(
        int(words[0]), metadata_used, metadata_total, data_used, data_total,
        None if words[3] == "-" else int(words[3]), words[4], "needs_check" in words, "discard_passdown" in words,
        "error_if_no_space" in words, info.event_nr, info.open_count,
    )  # fmt: skip
