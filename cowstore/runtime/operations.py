"""One step of a plan: a function, its arguments, and the process that takes it."""

from __future__ import annotations

import enum

from cowstore._frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Concatenate, ParamSpec

    from cowstore.runtime.inside import Inside

    P = ParamSpec("P")


class Stage(enum.Enum):
    """The process that takes a step."""

    LAUNCHER = "launcher"
    """Outside, where this machine's files and groups are."""
    AHEAD = "process 1, ahead"
    """Inside the new namespaces, as soon as process 1 is born: what is the same whatever is to be run."""
    INIT = "process 1"
    """Inside, when it is known what to run, before the program goes on."""
    PROGRAM = "program"
    """In the process that will become the program."""
    WATCH = "process 1, then"
    """In process 1, while the program goes on."""


@frozen
class Operation:
    """One step of a plan; plans compare equal when they do the same.

    :ivar step: what does it; its docstring's first line says what it does.
    """

    stage: Stage
    step: Callable[..., None]
    arguments: tuple[tuple[str, object], ...] = ()

    def execute(self, inside: Inside) -> None:
        """Do it.

        :raises OSError: the kernel refused.
        """
        self.step(inside, **dict(self.arguments))

    @property
    def name(self) -> str:
        """What is done, in words: ``mount proc``."""
        return self.step.__name__.strip("_").replace("_", " ")

    def describe(self) -> str:
        """Return one line: the process, what is done, and with what."""
        words = " ".join(f"{name}={_text(value)}" for name, value in self.arguments)
        return f"{self.stage.value}: {self.name}" + (f" ({words})" if words else "")


def operation(
    stage: Stage, step: Callable[Concatenate[Inside, P], None], /, *args: P.args, **kwargs: P.kwargs
) -> Operation:
    """Make the operation that calls *step* with these arguments, checked by their types."""
    assert not args, "arguments of a step have names"
    return Operation(stage=stage, step=step, arguments=tuple(kwargs.items()))


def _text(value: object) -> str:
    if hasattr(value, "argv"):
        return " ".join(value.argv)  # of a spec
    if isinstance(value, bytes):
        if len(value) > 255:
            return f"{len(value)} bytes"
        return value.decode(errors="backslashreplace")
    if isinstance(value, tuple) and value and isinstance(value[0], (bytes, str)):
        return ",".join(_text(part) for part in value)
    return str(value)
