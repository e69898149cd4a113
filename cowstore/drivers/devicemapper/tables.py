"""The pool's table, swapping the table of a device that is in use, and what becomes of one when a step on it fails.

An error is never lost behind another: that of cleaning up after it is a note on it.

Source: Documentation/admin-guide/device-mapper/thin-provisioning.rst, "Setting up a fresh pool device".
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from cowstore._linux import dm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from cowstore._linux.fd import Descriptor

TARGET = "thin-pool"
ZEROING = "skip_block_zeroing"
FAILS = "error_if_no_space"
KEEPS_DISCARDS = "no_discard_passdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTable:
    """The one line of a pool's table: numbers of the devices below; length, block and low-water mark in bytes."""

    metadata: int
    data: int
    length: int
    block: int
    low_water: int
    features: frozenset[str]

    @classmethod
    def read(cls, target: dm.Target) -> Self:
        """Read what the kernel tells of an active pool's table."""
        metadata, data, block, low_water, _, *features = target.params.split()
        size = int(block) * dm.SECTOR
        return cls(
            metadata=_number(metadata), data=_number(data), length=target.length * dm.SECTOR, block=size,
            low_water=int(low_water) * size, features=frozenset(features),
        )  # fmt: skip

    def target(self) -> dm.Target:
        """Write it down for the kernel."""
        words = [
            *(f"{os.major(dev)}:{os.minor(dev)}" for dev in (self.metadata, self.data)),
            str(self.block // dm.SECTOR),
            str(self.low_water // self.block),
            str(len(self.features)),
            *sorted(self.features),
        ]
        return dm.Target(0, self.length // dm.SECTOR, TARGET, " ".join(words))

    def differing(self, other: PoolTable) -> str:
        """Say in words in which options two tables differ; empty where in none."""
        told = []
        for feature, ours, theirs in (
            (FAILS, "when_full=error", "when_full=queue"),
            (KEEPS_DISCARDS, "discard=no", "discard=yes"),
        ):
            mine = feature in self.features
            if mine != (feature in other.features):
                told.append(f"{ours if mine else theirs} (not {theirs if mine else ours})")
        if self.low_water != other.low_water:
            told.append(f"a low-water mark of {self.low_water} bytes (not {other.low_water})")
        return ", ".join(told)


def _number(text: str) -> int:
    major, _, minor = text.partition(":")
    return os.makedev(int(major), int(minor))


def swap_table(control: Descriptor, name: str, flags: dm.DmFlag = dm.DmFlag.NONE) -> None:
    """Let an active device go on with the table that was loaded; its I/O waits meanwhile.

    The kernel stops it, swaps and resumes at one request. In two requests, whoever is killed between them leaves it
    stopped, and everybody who waits for its I/O, perhaps with a lock in hand, out of reach of signals.
    """
    try:
        dm.dev_resume(control, name, flags=flags)
    except BaseException as error:
        # Where the stop failed, the kernel keeps the new table for the next resume: that would try all of it again.
        with suppress(OSError):
            dm.table_clear(control, name)
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
