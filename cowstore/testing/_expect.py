"""Small assertions that say what they saw."""

from __future__ import annotations

import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import TypeVar

    E = TypeVar("E", bound=BaseException)
    T = TypeVar("T")


class Caught:
    """What :func:`raises` caught, once the block has ended."""

    def __init__(self) -> None:
        self.error: BaseException = AssertionError("nothing was caught yet")


@contextmanager
def raises(kind: type[E], *, saying: str = "") -> Iterator[Caught]:
    """Assert that the block raises *kind*, with *saying* in its message.

    :raises AssertionError: it raises nothing, something else, or says something else.
    """
    caught = Caught()
    try:
        yield caught
    except kind as error:
        caught.error = error
        if saying not in str(error):
            raise AssertionError(f"{kind.__name__} should say {saying!r}, it says {str(error)!r}") from error
    except Exception as error:
        raise AssertionError(f"expected {kind.__name__}, got {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"expected {kind.__name__}, but nothing was raised")


def refused(kind: type[E], verb: Callable[[], object], *, saying: str = "") -> E:
    """Assert that *verb* raises *kind*, and return what it raised."""
    with raises(kind, saying=saying) as caught:
        verb()
    assert isinstance(caught.error, kind)
    return caught.error


def equal(found: object, expected: object, what: str) -> None:
    """Assert that two values are equal.

    :raises AssertionError: with both, and what they are.
    """
    if found != expected:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def counted(work: Callable[[], T]) -> tuple[T, int]:
    """Count the calls that this thread makes for *work*, of Python's functions and of those below: no clock is asked.

    :returns: what *work* returned, and how many calls it took.
    """
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return work(), calls
    finally:
        sys.setprofile(before)
