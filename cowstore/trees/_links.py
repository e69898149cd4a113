"""Hard links in a comparison: which names, unchanged in themselves, must be told so that none is split or joined.

Whoever applies the changes replaces the names that are told and leaves the others alone. So a name must be told with
the others of its file as soon as one of them is told; and of names that were one file and are several now, all but one
file's must be.
"""

from __future__ import annotations

import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from cowstore.trees._slots import Slot

    Key = tuple[bool, int, int]
    """Which tree, device, inode."""

__all__ = ["Links"]


class _Names:
    """How many of a file's names were seen."""

    __slots__ = ("expected", "seen", "told")

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.seen = 0
        self.told = False


class Links:
    """The files with several names that were met, and the names whose fate hangs on others."""

    def __init__(self, untouched: Callable[[set[Key]], Iterable[Key]] | None = None) -> None:
        """Start with none.

        :param untouched: asked which of the lower tree's files have names that the comparison never meets, since they
            are as they were; None where it meets all.
        """
        self._files: dict[Key, _Names] = {}
        self._finished: list[Key] = []
        self._waiting: set[Key] = set()
        self._undecided: list[tuple[Key, Key, Slot]] = []
        self._untouched = untouched

    def told(self, lower: os.stat_result | None, upper: os.stat_result | None) -> None:
        """Note a name that is told on its own account."""
        if lower is not None and lower.st_nlink > 1 and not stat.S_ISDIR(lower.st_mode):
            self._note((False, lower.st_dev, lower.st_ino), lower.st_nlink)
        if upper is not None and upper.st_nlink > 1 and not stat.S_ISDIR(upper.st_mode):
            self._note((True, upper.st_dev, upper.st_ino), upper.st_nlink).told = True
        self._settle_if_complete()

    def undecided(self, lower: os.stat_result, upper: os.stat_result, slot: Slot) -> None:
        """Note a name that is unchanged in itself, one of several in one of the trees."""
        lower_key = (False, lower.st_dev, lower.st_ino)
        upper_key = (True, upper.st_dev, upper.st_ino)
        slot.wait()
        self._undecided.append((lower_key, upper_key, slot))
        for key, expected in ((lower_key, lower.st_nlink), (upper_key, upper.st_nlink)):
            names = self._note(key, expected)
            if names.seen < names.expected:
                self._waiting.add(key)
        self._settle_if_complete()

    def _note(self, key: Key, expected: int) -> _Names:
        names = self._files.get(key)
        if names is None:
            names = self._files[key] = _Names(expected)
        names.seen += 1
        if names.seen >= names.expected:
            self._waiting.discard(key)
            self._finished.append(key)
        return names

    def _settle_if_complete(self) -> None:
        if self._waiting:
            return
        if self._undecided:
            self._settle({})
        for key in self._finished:
            self._files.pop(key, None)
        self._finished.clear()

    def settle(self) -> None:
        """Decide everything: no more names will come."""
        if not self._undecided:
            return
        open_files = {key for key in self._waiting if not key[0]}
        untouched = self._untouched(open_files) if self._untouched is not None and open_files else ()
        self._settle(dict.fromkeys(untouched))

    def _settle(self, untouched: dict[Key, None]) -> None:
        groups: dict[Key, list[tuple[Key, Slot]]] = {}
        for lower_key, upper_key, slot in self._undecided:
            groups.setdefault(upper_key, []).append((lower_key, slot))
        # Of the files that are one in the lower tree only one can stay that file.
        rivals: dict[Key, list[Key]] = {}
        for upper_key, members in groups.items():
            lower_keys = {lower_key for lower_key, _ in members}
            if self._files[upper_key].told or len(lower_keys) > 1:
                _decide(members, told=True)
            else:
                rivals.setdefault(lower_keys.pop(), []).append(upper_key)
        for lower_key, upper_keys in rivals.items():
            same = [key for key in upper_keys if key[2] == lower_key[2]]
            stays = None if lower_key in untouched else same[0] if same else upper_keys[0]
            for upper_key in upper_keys:
                _decide(groups[upper_key], told=upper_key != stays)
        self._undecided.clear()
        self._waiting.clear()


def _decide(members: list[tuple[Key, Slot]], *, told: bool) -> None:
    for _, slot in members:
        slot.decide(told=told)
