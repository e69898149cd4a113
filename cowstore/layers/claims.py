"""What a layer itself has put into a tree, so that its whiteouts hide only what was there before."""

from __future__ import annotations

from array import array

_FIRST_SLOTS = 1024
_WORD = 0xFFFF_FFFF_FFFF_FFFF


class Fingerprints:
    """A set of paths that keeps 64 bits of each: eight to sixteen bytes a path, where a set of bytes takes two hundred.

    Two paths with one fingerprint would be taken for each other. Python's hash is keyed anew for each process, so that
    no archive can aim at that, and by chance it happens once in 10^7 archives of a million entries. Then a file that a
    whiteout should hide stays.
    """

    __slots__ = ("_count", "_mask", "_slots")

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * _FIRST_SLOTS))
        self._mask = _FIRST_SLOTS - 1
        self._count = 0

    def add(self, path: bytes) -> None:
        """Put a path in."""
        slots, mask = self._slots, self._mask
        word = hash(path) & _WORD or 1
        index = word & mask
        while found := slots[index]:
            if found == word:
                return
            index = (index + 1) & mask
        slots[index] = word
        self._count += 1
        if 4 * self._count > 3 * mask:
            self._grow()

    def __contains__(self, path: bytes) -> bool:
        slots, mask = self._slots, self._mask
        word = hash(path) & _WORD or 1
        index = word & mask
        while found := slots[index]:
            if found == word:
                return True
            index = (index + 1) & mask
        return False

    def _grow(self) -> None:
        """Double the table."""
        old = self._slots
        self._slots = slots = array("Q", bytes(16 * len(old)))
        self._mask = mask = len(slots) - 1
        for word in old:
            if word:
                index = word & mask
                while slots[index]:
                    index = (index + 1) & mask
                slots[index] = word


class Claims:
    """Where a layer has been, by canonical path relative to the root.

    :ivar made: what it unpacked. :ivar passed: directories that were there before and that it changed something below.
    """

    __slots__ = ("made", "passed")

    def __init__(self) -> None:
        self.made = Fingerprints()
        self.passed = Fingerprints()

    def holds(self, path: bytes) -> bool:
        """Tell whether a path is the layer's own, or leads to something that is."""
        return path in self.made or path in self.passed
