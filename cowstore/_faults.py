"""Fault points: named places between two steps of a verb, at which the test suite may kill the process.

Nothing happens at a point unless a test has set :data:`hook`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

hook: Callable[[str], None] | None = None
"""Called with the point's name; set by the test suite only."""


def point(name: str) -> None:
    """Tell the test suite, if it listens, that the step before *name* is done and the one after is not begun."""
    if hook is not None:
        hook(name)
