"""Frozen data classes that cost next to nothing to define, for what every run needs.

:func:`dataclasses.dataclass` writes the source of five methods and compiles it, half a millisecond for each class, and
importing :mod:`dataclasses` takes three more, or ten where :mod:`inspect` comes with it. ``cowstore-run`` has 25 for
all it does. A class made by :func:`frozen` is frozen, slotted and keyword-only, and a data class to everybody who asks
(``fields``, ``asdict``, ``replace``, ``is_dataclass``, type checkers); what :mod:`dataclasses` needs for that is made
when it first asks.

Not supported, since nothing here needs it: inheritance of fields, ``default_factory``, ``__post_init__``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar, dataclass_transform

    T = TypeVar("T")


class _Fields:
    """Stands for ``__dataclass_fields__`` until somebody looks."""

    def __get__(self, instance: object, owner: type[Any]) -> dict[str, Any]:
        from dataclasses import field, make_dataclass

        specs = [
            (name, owner.__annotations__[name], field(default=owner.__frozen_defaults__[name]))
            if name in owner.__frozen_defaults__
            else (name, owner.__annotations__[name])
            for name in owner.__slots__
        ]
        made: Any = make_dataclass(owner.__name__, specs, kw_only=True)
        fields: dict[str, Any] = made.__dataclass_fields__
        owner.__dataclass_fields__ = fields
        return fields


def _make_init(names: tuple[str, ...], defaults: dict[str, object]) -> Callable[..., None]:
    known = frozenset(names)
    put = object.__setattr__

    def init(self: object, /, **given: object) -> None:
        for name in names:
            if name in given:
                put(self, name, given[name])
            elif name in defaults:
                put(self, name, defaults[name])
            else:
                missing = ", ".join(repr(other) for other in names if other not in given and other not in defaults)
                raise TypeError(f"{type(self).__name__}() misses {missing}")
        if not known.issuperset(given):
            unknown = ", ".join(repr(name) for name in given if name not in known)
            raise TypeError(f"{type(self).__name__}() has no {unknown}")

    init.__name__ = "__init__"
    return init


def _values(self: Any) -> tuple[object, ...]:
    return tuple([getattr(self, name) for name in self.__slots__])


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


def _eq(self: object, other: object) -> bool:
    return _values(self) == _values(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: object) -> int:
    return hash(_values(self))


def _set(self: object, name: str, value: object) -> NoReturn:  # noqa: ARG001  # as object's
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: object, name: str) -> NoReturn:  # noqa: ARG001  # as object's
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _reduce(self: object) -> tuple[object, ...]:
    """Pickle and copy: a frozen, slotted object cannot be filled by assignment."""
    return _remade, (type(self), _values(self))


def _remade(cls: Any, values: tuple[object, ...]) -> object:
    return cls(**dict(zip(cls.__slots__, values, strict=True)))


def _replace(self: Any, /, **changes: object) -> object:
    return type(self)(**dict(zip(self.__slots__, _values(self), strict=True), **changes))


_METHODS = {
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__setattr__": _set,
    "__delattr__": _delete,
    "__reduce__": _reduce,
    "__replace__": _replace,
    "__match_args__": (),
    "__dataclass_fields__": _Fields(),
}


def _frozen(cls: type[T]) -> type[T]:
    body = dict(cls.__dict__)
    names = tuple(name for name, kind in body.get("__annotations__", {}).items() if not kind.startswith("ClassVar"))
    defaults = {name: body.pop(name) for name in names if name in body}
    for name in ("__dict__", "__weakref__"):
        body.pop(name, None)
    made = {
        **_METHODS,
        **body,
        "__slots__": names,
        "__frozen_defaults__": defaults,
        "__init__": _make_init(names, defaults),
    }
    return type(cls.__name__, cls.__bases__, made)


if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    def frozen(cls: type[T]) -> type[T]:
        """Make a frozen, slotted, keyword-only data class; annotations must be text (``from __future__``)."""
        ...

else:
    frozen = _frozen
