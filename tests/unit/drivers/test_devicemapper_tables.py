"""An error is told before that of cleaning up after it, which is a note on it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, cast

import pytest

from cowstore._linux import dm
from cowstore.drivers.devicemapper import tables
from cowstore.drivers.devicemapper.thin import Suspended, Thins
from cowstore.errors import CowstoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore._linux.fd import Descriptor

CONTROL = cast("Descriptor", None)


def failing(number: int) -> Callable[..., dm.Info]:
    def fail(*_: object, **_more: object) -> dm.Info:
        raise OSError(number, os.strerror(number))

    return fail


class OneDevice(Thins):
    """A pool with one active device."""

    def __init__(self) -> None:
        self.control = CONTROL

    def name(self, id: int) -> str:
        return f"device-{id}"

    def find(self, id: int) -> dm.Info:
        return dm.Info(self.name(id), "", 0, dm.DmFlag.ACTIVE_PRESENT, 1, 0)


@pytest.fixture(autouse=True)
def resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """No device can be resumed."""
    monkeypatch.setattr(dm, "dev_resume", failing(errno.EBUSY))
    monkeypatch.setattr(dm, "table_clear", failing(errno.ENXIO))


def notes(error: BaseException | None) -> str:
    assert error is not None
    return " ".join(getattr(error, "__notes__", []))


def test_a_suspend_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dm, "dev_suspend", failing(errno.EIO))
    with (
        pytest.raises(CowstoreError, match=r"device-1 of id 1 cannot be suspended .*Input/output error") as told,
        Suspended(OneDevice(), 1),
    ):
        pytest.fail("it was suspended")
    assert "device-1 could not be resumed either" in notes(told.value.__cause__)


def test_what_is_done_meanwhile_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dm, "dev_suspend", lambda *_: None)
    with pytest.raises(ValueError, match="first") as told, Suspended(OneDevice(), 1):
        raise ValueError("first")
    assert "device-1 could not be resumed either" in notes(told.value)


def test_only_the_end_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dm, "dev_suspend", lambda *_: None)
    with pytest.raises(OSError, match="busy"), Suspended(OneDevice(), 1):
        pass


def test_a_table_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [OSError(errno.EINVAL, "first"), OSError(errno.EBUSY, "second")]

    def refuse(*_: object, **_more: object) -> dm.Info:
        raise answers.pop(0)

    monkeypatch.setattr(dm, "dev_resume", refuse)
    with pytest.raises(OSError, match="first") as told:
        tables.swap_table(CONTROL, "device-1")
    assert "could not be resumed either, and may be stopped: [Errno 16] second" in notes(told.value)
    assert not answers
