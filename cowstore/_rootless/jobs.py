"""Jobs for the helper: which function, of which store or driver, with which arguments."""

from __future__ import annotations

from cowstore._frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


@frozen
class Lent:
    """Stands for a file object of the caller's among the arguments.

    :ivar number: which of the descriptors that come along is its. :ivar writable: it is written to.
    :ivar name: what messages call it.
    """

    number: int
    writable: bool
    name: str


@frozen
class OpenStore:
    """Stands for an open store among the arguments; the helper opens it too."""

    root: str
    options: Mapping[str, object]
    volatile: bool
    read_only: bool


@frozen
class OpenDriver:
    """Stands for a driver; the helper makes its own, of the same directory.

    :ivar options: an instance of the driver's Options.
    """

    name: str
    directory: str
    options: object
    volatile: bool
    read_only: bool


@frozen
class Job:
    """A function to call.

    :ivar module: where it is, or nothing: then the first argument is an object whose method it is.
    :ivar function: its name. :ivar arguments: by position. :ivar named: by name.
    :ivar writes: names or numbers of those arguments that are file objects to write to.
    """

    module: str
    function: str
    arguments: tuple[object, ...] = ()
    named: Mapping[str, object] = {}
    writes: tuple[str | int, ...] = ()
