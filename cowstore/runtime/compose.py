"""From a snapshot that is held to the spec of a process on it: what must be hidden, and what is assumed."""

from __future__ import annotations

import os
import sys

from cowstore.errors import InvalidArgument
from cowstore.runtime._filters import DEFAULT as FILTERS
from cowstore.runtime.spec import DEFAULT_CAPS, DEFAULT_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cowstore.model import Mount
    from cowstore.runtime.binds import Bind

_OWN = frozenset((b"upperdir", b"workdir"))
"""Options of a mount that name what is the snapshot's own, and so lies in the store."""

NETWORKS = ("none", "host", "user")


def environment(
    given: Mapping[str, str] | None = None, image: Iterable[tuple[str, str]] = ()
) -> tuple[tuple[str, str], ...]:
    """Return the program's environment: PATH, TERM as it is here, what the image says, what is *given*; no more.

    HOME, where nobody says it, is that of the user inside.

    :raises InvalidArgument: a name that is empty or holds ``=`` or NUL, or a value that holds NUL.
    """
    made = {"PATH": DEFAULT_PATH}
    if "TERM" in os.environ:
        made["TERM"] = os.environ["TERM"]
    made.update(image)
    for name, value in (given or {}).items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidArgument(f"{name!r}={value!r} cannot be in an environment", argument="env")
        made[name] = value
    return tuple(made.items())


def command(argv: Iterable[str]) -> tuple[str, ...]:
    """Check a program and its arguments.

    :raises InvalidArgument: there is no program, or a NUL in one of them.
    """
    words = tuple(argv)
    if not words:
        raise InvalidArgument("there is no program to run; give one", argument="argv")
    if any("\0" in word for word in words):
        raise InvalidArgument("an argument of a program cannot hold a NUL", argument="argv")
    return words


def hostname(name: str | None) -> str | None:
    """Check a host name: at most 64 bytes, as sethostname(2) takes.

    :raises InvalidArgument: it is empty, too long, or holds a NUL.
    """
    if name is not None and (not name or "\0" in name or len(os.fsencode(name)) > 64):
        raise InvalidArgument(f"{name!r} cannot be a host name: 1 to 64 bytes", argument="hostname")
    return name


def network(name: str) -> str:
    """Check the name of a kind of network.

    :raises InvalidArgument: it is none of them.
    """
    if name not in NETWORKS:
        raise InvalidArgument(f"there is no network {name!r}; there are {', '.join(NETWORKS)}", argument="network")
    return name


def resolver(network: str) -> tuple[Bind, ...]:
    """Return what makes names resolve with this machine's network: its own resolver's configuration, read-only."""
    if network != "host" or not os.path.isfile("/etc/resolv.conf"):
        return ()
    from cowstore.runtime.binds import Bind

    return (Bind(source=os.path.realpath("/etc/resolv.conf"), target="/etc/resolv.conf", read_only=True),)


def time_limit(seconds: float | None) -> None:
    """Check a time limit.

    :raises InvalidArgument: it is no number above 0.
    """
    if seconds is not None and not 0 < seconds < 1e9:
        raise InvalidArgument(f"{seconds} is no time limit: give seconds, more than 0", argument="timeout_s")


def directory(path: str | None) -> str:
    """Check a working directory.

    :raises InvalidArgument: it is not absolute, or holds a NUL.
    """
    if path is None:
        return "/"
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(
            f"the working directory {path!r} must be an absolute path inside the root", argument="cwd"
        )
    return path


def hidden(mounts: Iterable[Mount], store: str) -> tuple[str, ...]:
    """List the paths inside the root at which the store itself would show.

    A layer that is a directory of this machine (an adopted one) may hold the store. Other layers lie in the store.
    """
    inner = os.path.realpath(store)
    found: dict[str, None] = {}
    for mount in mounts:
        for value in (mount.source, *(value for name, value in mount.options if name not in _OWN)):
            if not value.startswith(b"/"):
                continue
            outer = os.path.realpath(os.fsdecode(value))
            if outer == "/":
                found[inner] = None
            elif inner == outer or inner.startswith(outer + "/"):
                found[inner[len(outer) :] or "/"] = None
    return tuple(found)


def seccomp(choice: str, caps: int = DEFAULT_CAPS) -> bytes:
    """Return the filter of system calls for a choice.

    :param choice: ``"default"``, ``"none"``, or the path of a profile in the container runtimes' common JSON form.
    :param caps: mask of the capabilities that the program keeps: with more of them it may call more.
    :raises InvalidArgument: the file is no such profile. :raises Unsupported: no tables for this machine.
    """
    if choice == "none":
        return b""
    if choice == "default" and caps == DEFAULT_CAPS:
        ready = ready_filter()
        if ready:
            return ready
    from cowstore.runtime import seccomp as made

    return made.default(caps) if choice == "default" else made.from_file(choice, caps)


def ready_filter() -> bytes:
    """Return the default filter, compiled beforehand; empty where there is none for this machine."""
    return bytes.fromhex(FILTERS.get(os.uname().machine, "")) if sys.byteorder == "little" else b""


def capabilities(add: Iterable[str] = (), drop: Iterable[str] = ()) -> int:
    """Return the mask of capabilities that are kept: the default, less what is dropped, and what is added.

    :param add: names, with or without ``CAP_``, in any case; ``ALL`` for all there are. :param drop: likewise.
    :raises InvalidArgument: an unknown name.
    """
    kept = DEFAULT_CAPS
    for name in drop:
        kept &= ~_capability(name)
    for name in add:
        kept |= _capability(name)
    return kept


def _capability(name: str) -> int:
    from cowstore._linux.capabilities import Cap, mask

    word = name.upper().removeprefix("CAP_")
    if word == "ALL":
        return mask(Cap)
    if word not in Cap.__members__:
        raise InvalidArgument(f"there is no capability {name!r}; see capabilities(7)", argument="capabilities")
    return 1 << Cap[word]


def user(name: str | None, image: str = "") -> str:
    """Check whom to run as: ``NAME`` or ``NUMBER``, perhaps with ``:GROUP``; by default whom the image names, or root.

    :raises InvalidArgument: it is of another form.
    """
    if name is None:
        return image or "0:0"
    who, colon, group = name.partition(":")
    if not who or (colon and not group) or "\0" in name or ":" in group:
        raise InvalidArgument(f"{name!r} is no user: give NAME or NUMBER, perhaps with :GROUP", argument="user")
    return name


def binds(network: str, asked: Iterable[Bind | str]) -> tuple[Bind, ...]:
    """Return what is shown inside: what the network needs, then what is asked for.

    :raises InvalidArgument: as :func:`bind`.
    """
    return (*resolver(network), *(bind(each) if isinstance(each, str) else each for each in asked))


def bind(text: str) -> Bind:
    """Read ``SOURCE:TARGET[:ro]``; a source that is relative is so to the working directory.

    :raises InvalidArgument: it is of another form.
    """
    from cowstore.runtime.binds import Bind

    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target.startswith("/") or mode not in {"", "ro", "rw"} or "\0" in text:
        raise InvalidArgument(
            f"{text!r} is no bind: give SOURCE:TARGET or SOURCE:TARGET:ro, TARGET absolute", argument="bind"
        )
    return Bind(source=os.path.abspath(source), target=target, read_only=mode == "ro")


def tmpfs(places: Iterable[str]) -> tuple[tuple[str, int | None], ...]:
    """Read each ``PATH[:SIZE]``, the size as ``64M``; half of this machine's memory where none is given.

    :raises InvalidArgument: one is of another form.
    """
    made: list[tuple[str, int | None]] = []
    for text in places:
        from cowstore.drivers._options import size

        path, colon, limit = text.partition(":")
        try:
            size_bytes = size(limit) if colon else None
        except ValueError:
            size_bytes = 0
        if not path.startswith("/") or "\0" in path or size_bytes == 0:
            raise InvalidArgument(f"{text!r} is no tmpfs: give PATH or PATH:SIZE, PATH absolute", argument="tmpfs")
        made.append((path, size_bytes))
    return tuple(made)
