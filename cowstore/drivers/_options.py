"""Driver options from text: names checked, values converted by the type of the data class's field."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing

from cowstore.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_TRUE = {"1", "yes", "true", "on"}
_FALSE = {"0", "no", "false", "off"}
_SUFFIXES = {"k": 10, "m": 20, "g": 30, "t": 40}


def size(text: str) -> int:
    """Read a number of bytes: digits, or digits with ``K``, ``M``, ``G`` or ``T`` (powers of 1024, ``KiB`` too)."""
    lowered = text.strip().lower().removesuffix("b").removesuffix("i")
    shift = _SUFFIXES.get(lowered[-1:], 0)
    digits = lowered[:-1] if shift else lowered
    if not digits.isascii() or not digits.isdigit():
        raise ValueError(f"not a size: {text!r}")
    return int(digits) << shift


def parse(options: type, driver: str, given: Mapping[str, object]) -> object:
    """Return an instance of the data class *options* made from *given*.

    :raises InvalidArgument: an unknown name, a value of the wrong sort, or one the data class refuses.
    """
    hints = typing.get_type_hints(options)
    known = {field.name: hints[field.name] for field in dataclasses.fields(options)}
    values: dict[str, object] = {}
    for name, value in given.items():
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidArgument(f"the {driver} driver has no option {name!r}; it has: {listed}", argument=name)
        try:
            values[name] = _convert(value, known[name])
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"option {name} of the {driver} driver: {error}", argument=name) from error
    try:
        return options(**values)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"options of the {driver} driver: {error}", argument="options") from error


def _convert(value: object, wanted: object) -> object:
    """Turn *value* into the type *wanted*; text is read, other values must fit already."""
    choices = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if value is None and types.NoneType in choices:
        return None
    for choice in choices:
        if isinstance(choice, type) and choice is not types.NoneType:
            return _convert_one(value, choice)
    raise TypeError(f"cannot read a value of type {wanted}")


def _convert_one(value: object, wanted: type[typing.Any]) -> object:
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    if not isinstance(value, str):
        raise TypeError(f"expected {wanted.__name__}, not {type(value).__name__} {value!r}")
    if wanted is bool:
        lowered = value.lower()
        if lowered not in _TRUE | _FALSE:
            raise ValueError(f"expected yes or no, not {value!r}")
        return lowered in _TRUE
    if wanted is int:
        return size(value)
    if issubclass(wanted, enum.Enum):
        try:
            return wanted(value)
        except ValueError:
            raise ValueError(
                f"expected one of {', '.join(str(member.value) for member in wanted)}, not {value!r}"
            ) from None
    converted: object = wanted(value)
    return converted
