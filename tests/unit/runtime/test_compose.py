"""What is assumed, what is refused, and where the store would show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cowstore.errors import InvalidArgument
from cowstore.model import Mount
from cowstore.runtime import compose

if TYPE_CHECKING:
    from pathlib import Path


def overlay(*lowers: str) -> tuple[Mount, ...]:
    return (Mount(type="overlay", source=b"overlay", options=tuple((b"lowerdir+", low.encode()) for low in lowers)),)


def test_nothing_of_the_callers_environment_is_taken_over_but_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("TERM", "vt100")
    made = dict(compose.environment({"A": "b=c", "HOME": "/home/me"}))
    assert set(made) == {"PATH", "HOME", "TERM", "A"}
    assert dict(compose.environment({"B": "2"}, [("A", "1"), ("B", "1")]))["B"] == "2"
    assert (made["TERM"], made["A"], made["HOME"]) == ("vt100", "b=c", "/home/me")


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")])
def test_impossible_variables_are_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument):
        compose.environment({name: value})


def test_impossible_words_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no program"):
        compose.command([])
    with pytest.raises(InvalidArgument, match="NUL"):
        compose.command(["a\0b"])
    with pytest.raises(InvalidArgument, match="absolute"):
        compose.directory("srv")
    with pytest.raises(InvalidArgument, match="host name"):
        compose.hostname("x" * 65)
    with pytest.raises(InvalidArgument, match="none, host"):
        compose.network("bridge")


def test_the_store_shows_where_a_layer_holds_it(tmp_path: Path) -> None:
    store = tmp_path / "srv" / "store"
    store.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "srv")
    inside = str(store.resolve())
    assert compose.hidden(overlay("/"), str(store)) == (inside,)
    assert compose.hidden(overlay(str(link)), str(store)) == ("/store",)
    assert compose.hidden(overlay("/", str(tmp_path / "srv")), str(store)) == (inside, "/store")
    assert compose.hidden(overlay(str(store / "overlay" / "1" / "fs"), str(tmp_path / "elsewhere")), str(store)) == ()
    # A name that only begins alike is another directory.
    assert compose.hidden(overlay(str(tmp_path / "srv" / "sto")), str(store)) == ()
