"""Cheap data classes are data classes to everybody who asks."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys

import pytest

from cowstore._frozen import frozen
from cowstore.model import Capabilities, Mount, MountFlag


@frozen
class Point:
    """Where."""

    x: int
    y: int = 2
    name: str | None = None

    def moved(self) -> Point:
        """A method."""
        return Point(x=self.x + 1, y=self.y)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Where, the dear way."""

    x: int
    y: int = 2
    name: str | None = None


def test_values() -> None:
    point = Point(x=1, name="a")
    assert (point.x, point.y, point.name) == (1, 2, "a")
    assert point == Point(x=1, y=2, name="a")
    assert point != Point(x=1)
    assert point != Plain(x=1, name="a")  # type: ignore[comparison-overlap]
    assert hash(point) == hash(Point(x=1, y=2, name="a"))
    assert repr(point) == repr(Plain(x=1, name="a")).replace("Plain", "Point")
    assert point.moved() == Point(x=2)
    assert Point.__doc__ == "Where."
    assert not hasattr(point, "__dict__")


def test_frozen() -> None:
    point = Point(x=1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="'x'"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="'x'"):
        del point.x
    with pytest.raises(AttributeError):
        point.other = 2  # type: ignore[attr-defined]


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="misses 'x'"):
        Point(y=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="has no 'z'"):
        Point(x=1, z=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="has no 'z'"):
        Point(x=1, y=1, z=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "value", [Point(x=1), Capabilities(adopts=True), Mount(type="bind", source=b"/", flags=MountFlag.RDONLY)]
)
def test_data_classes_to_everybody_who_asks(value: object) -> None:
    assert dataclasses.is_dataclass(value)
    assert not isinstance(value, type)
    names = [field.name for field in dataclasses.fields(value)]
    assert names == list(type(value).__annotations__)
    assert dataclasses.asdict(value) == {name: getattr(value, name) for name in names}
    assert dataclasses.replace(value) == value
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.copy(value) == copy.deepcopy(value) == value


def test_replace() -> None:
    assert dataclasses.replace(Point(x=1), y=7) == Point(x=1, y=7)
    fields = {field.name: field.default for field in dataclasses.fields(Point)}
    assert fields == {"x": dataclasses.MISSING, "y": 2, "name": None}


def test_the_hot_path_does_without_dataclasses() -> None:
    script = "import sys, cowstore._opening, cowstore.runtime.launcher; print('dataclasses' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
