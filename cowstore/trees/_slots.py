"""The order of a comparison's answers: places kept for paths of which it is not yet known whether they changed."""

from __future__ import annotations

from collections import deque

from cowstore.results import Change, ChangeKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Answers", "Slot"]


class Slot:
    """The place of one path: told, left out, or not yet known."""

    __slots__ = ("above", "closed", "kind", "known", "path", "waiting")

    def __init__(self, path: str, above: Slot | None, kind: ChangeKind | None = None) -> None:
        """Keep a place for *path* below the directory of *above* (None below the root).

        :param kind: what happened to it; None while that is not known.
        """
        self.path = path
        self.kind = kind
        self.known = kind is not None
        self.above = above
        self.closed = False
        self.waiting = 0

    def tell(self) -> None:
        """Tell it as modified, and the directories it is in."""
        slot: Slot | None = self
        while slot is not None and not slot.known:
            slot.kind = ChangeKind.MODIFIED
            slot.known = True
            slot = slot.above

    def wait(self) -> None:
        """Keep the directories above from being left out before this is decided."""
        above = self.above
        while above is not None:
            above.waiting += 1
            above = above.above

    def decide(self, *, told: bool) -> None:
        """End :meth:`wait`."""
        above = self.above
        while above is not None:
            above.waiting -= 1
            above = above.above
        if told:
            self.tell()
        else:
            self.known = True
        above = self.above
        while above is not None:
            above.drop_if_over()
            above = above.above

    def close(self) -> None:
        """Say that nothing more will be found below it."""
        self.closed = True
        self.drop_if_over()

    def drop_if_over(self) -> None:
        """Leave it out if nothing below it can be told any more."""
        if self.closed and not self.waiting:
            self.known = True


class Answers:
    """Answers in order; those behind an unknown one wait for it."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: deque[Slot] = deque()

    def add(self, slot: Slot) -> None:
        """Put a place at the end."""
        self._kept.append(slot)

    def is_ready(self) -> bool:
        """Tell whether :meth:`ready` yields anything."""
        return bool(self._kept) and self._kept[0].known

    def ready(self) -> Iterator[Change]:
        """Yield, and forget, what is known up to the first place that is not."""
        kept = self._kept
        while kept and kept[0].known:
            slot = kept.popleft()
            if slot.kind is not None:
                yield Change(kind=slot.kind, path=slot.path)
