"""A spec as bytes, for a launcher in another process: plain tuples, by :mod:`marshal`.

Both ends are of one installation and one interpreter, so nothing of it needs a version or distrusts the other.
"""

from __future__ import annotations

import marshal

from cowstore.model import Mount, MountFlag
from cowstore.runtime.binds import Bind
from cowstore.runtime.limits import Limits
from cowstore.runtime.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_VALUES = {cls.__name__: cls for cls in (Spec, Mount, Bind, Limits)}
_FIELDS: dict[type, tuple[str, ...]] = {cls: tuple(cls.__annotations__) for cls in _VALUES.values()}


def pack(spec: Spec, **more: object) -> bytes:
    """Return the bytes of a spec, and of what else the launcher is to know."""
    return marshal.dumps((_plain(spec), more))  # type: ignore[arg-type]  # plain by now


def unpack(content: bytes) -> tuple[Spec, dict[str, object]]:
    """Return what :func:`pack` was given."""
    spec, more = marshal.loads(content)  # noqa: S302  # from the process that started this one
    made = _made(spec)
    assert isinstance(made, Spec)
    return made, more


def _plain(value: object) -> object:
    cls = type(value)
    if cls in _FIELDS:
        return ("=" + cls.__name__, tuple(_plain(getattr(value, name)) for name in _FIELDS[cls]))
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    # Enumerations and flags are strings and integers to marshal.
    if isinstance(value, int) and type(value) not in {int, bool}:
        return int(value)
    if isinstance(value, str) and type(value) is not str:
        return str.__str__(value)
    return value


def _made(value: object) -> object:
    if not isinstance(value, tuple):
        return value
    match value:
        case (str(name), tuple(parts)) if name.startswith("="):
            cls = _VALUES[name[1:]]
            named: dict[str, Any] = {name: _made(part) for name, part in zip(_FIELDS[cls], parts, strict=True)}
            if cls is Mount:
                named["flags"] = MountFlag(named["flags"])
            return cls(**named)
    return tuple(_made(part) for part in value)
