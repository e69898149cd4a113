"""Flags of kernel calls that cost next to nothing to define and to combine.

:class:`enum.IntFlag` takes 15 µs to define each member, and 1 to 10 to combine two; a start defines a hundred, which is
a tenth of all it imports. To a type checker the classes made of :class:`Flags` are IntFlags. At run time a member is
an integer that knows its name, and what is combined of members is a plain integer, of which the class makes a named
one again.
"""

from __future__ import annotations

__all__ = ["Flags", "Numbers"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import IntEnum as Numbers
    from enum import IntFlag as Flags
    from typing import Any, Self
else:

    class _Kind(type):
        """Makes members of the integers in a class's body."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            members = {key: value for key, value in body.items() if type(value) is int}
            made = type.__new__(cls, name, bases, {key: body[key] for key in body if key not in members})
            named = {key: int.__new__(made, value) for key, value in members.items()}
            for key, member in named.items():
                type.__setattr__(made, key, member)
            type.__setattr__(made, "__members__", named)
            return made

        def __iter__(cls) -> Iterator[Any]:
            return iter(cls._canonical())

        def __len__(cls) -> int:
            return len(cls._canonical())

        def __getitem__(cls, name: str) -> Any:
            return cls.__members__[name]

        def __setattr__(cls, name: str, value: object) -> None:
            if name in cls.__dict__.get("__members__", ()):
                raise AttributeError(f"cannot reassign member {name!r}")
            type.__setattr__(cls, name, value)

    class Numbers(int, metaclass=_Kind):
        """As :class:`enum.IntEnum`: each member stands alone."""

        __slots__ = ()

        def __new__(cls, value: int) -> Self:
            if value in set(cls.__members__.values()):
                return int.__new__(cls, value)
            raise ValueError(f"{value!r} is not a valid {cls.__qualname__}")

        @classmethod
        def _canonical(cls) -> list[Any]:
            return list(cls.__members__.values())

        @property
        def name(self) -> str:
            """The member's name."""
            return next(key for key, member in type(self).__members__.items() if member == self)

        @property
        def value(self) -> int:
            """The plain integer."""
            return int(self)

        def __repr__(self) -> str:
            return f"<{type(self).__qualname__}.{self.name}: {int(self)!r}>"

        def __reduce__(self) -> tuple[object, ...]:
            return type(self), (int(self),)

        __str__ = int.__repr__
        __format__ = int.__format__

    class Flags(Numbers):
        """As :class:`enum.IntFlag`: members are bits, or names of several, and any integer is a value."""

        __slots__ = ()

        def __new__(cls, value: int = 0) -> Self:
            return int.__new__(cls, value)

        @classmethod
        def _canonical(cls) -> list[Any]:
            return [member for member in cls.__members__.values() if member and not member & (member - 1)]

        @property
        def name(self) -> str | None:
            """Names of the bits, with ``|`` between; None where a bit has none."""
            for key, member in type(self).__members__.items():
                if member == self:
                    return key
            bits = [member for member in self._canonical() if member & self]
            return "|".join(member.name for member in bits) if bits and sum(bits) == self else None

        def __repr__(self) -> str:
            return f"<{type(self).__qualname__}.{self.name or int(self)}: {int(self)!r}>"

        def __iter__(self) -> Iterator[Any]:
            return (member for member in self._canonical() if member & self)

        def __contains__(self, other: int) -> bool:
            return other & self == other
