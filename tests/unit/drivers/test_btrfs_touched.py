"""Playing a send stream on names: which paths of the two trees are to be looked at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowstore.drivers.btrfs.sendstream import Attribute, Command, StreamError
from cowstore.drivers.btrfs.touched import Touched, ancestors, below, outermost


def play(*steps: tuple[Command, bytes, bytes] | tuple[Command, bytes]) -> tuple[set[bytes], set[bytes]]:
    touched = Touched()
    second = {Command.LINK: Attribute.PATH_LINK, Command.RENAME: Attribute.PATH_TO}
    for command, path, *rest in steps:
        attributes: dict[int, bytes] = {Attribute.PATH: path}
        if rest:
            attributes[second[command]] = rest[0]
        touched.apply(command, attributes)
    return touched.paths()


def test_a_new_file_is_made_under_a_passing_name() -> None:
    alone, whole = play(
        (Command.MKFILE, b"o258-9-0"),
        (Command.RENAME, b"o258-9-0", b"d/new"),
        (Command.CHMOD, b"d/new"),
        (Command.UTIMES, b"d"),
    )
    assert alone == {b"d/new", b"d"}
    assert whole == set()


def test_a_deleted_file_is_looked_at_where_it_was() -> None:
    assert play((Command.UNLINK, b"d/old"), (Command.UTIMES, b"d")) == ({b"d"}, {b"d/old"})


def test_a_renamed_directory_is_looked_at_whole_on_both_sides() -> None:
    alone, whole = play((Command.RENAME, b"a", b"b"), (Command.UTIMES, b""))
    assert whole == {b"a", b"b"}
    assert b"" in alone


def test_what_moved_inside_a_renamed_directory_is_found_where_it_was() -> None:
    alone, whole = play((Command.RENAME, b"a", b"b"), (Command.UNLINK, b"b/x"), (Command.CHMOD, b"b/y"))
    assert whole == {b"a", b"b", b"a/x", b"b/y"}
    assert outermost(whole) == [b"a", b"b"]
    assert b"b/y" in alone


def test_two_directories_that_changed_places() -> None:
    _alone, whole = play(
        (Command.RENAME, b"a", b"o1-1-0"), (Command.RENAME, b"b", b"a"), (Command.RENAME, b"o1-1-0", b"b")
    )
    assert whole == {b"a", b"b"}


def test_a_name_that_came_back_is_looked_at_once_more() -> None:
    _alone, whole = play((Command.RENAME, b"a", b"o1-1-0"), (Command.RENAME, b"o1-1-0", b"a"))
    assert whole == {b"a"}


def test_both_names_of_a_new_link_are_looked_at() -> None:
    assert play((Command.LINK, b"new", b"d/old")) == ({b"new", b"d/old"}, set())


def test_a_directory_replaced_by_a_new_one_is_looked_at_whole() -> None:
    alone, whole = play(
        (Command.RENAME, b"d", b"o7-1-0"),
        (Command.UNLINK, b"o7-1-0/f"),
        (Command.RMDIR, b"o7-1-0"),
        (Command.MKDIR, b"o9-2-0"),
        (Command.RENAME, b"o9-2-0", b"d"),
        (Command.MKFILE, b"d/g"),
    )
    assert whole == {b"d", b"d/f"}
    assert {b"d", b"d/g"} <= alone


@pytest.mark.parametrize(
    "steps",
    [
        [(Command.UNLINK, b"a"), (Command.CHMOD, b"a")],
        [(Command.MKDIR, b"n"), (Command.CHMOD, b"n/x")],
        [(Command.RENAME, b"a", b"b"), (Command.UTIMES, b"a")],
    ],
)
def test_a_path_that_cannot_be_there_is_an_error(steps: list[tuple[Command, bytes]]) -> None:
    with pytest.raises(StreamError):
        play(*steps)


def test_a_command_without_its_path_is_an_error() -> None:
    with pytest.raises(StreamError):
        Touched().apply(Command.CHMOD, {})


NAMES = st.sampled_from([b"a", b"a-", b"a0", b"b"])
PATHS = st.lists(NAMES, min_size=0, max_size=3).map(b"/".join)


@given(st.sets(PATHS))
def test_outermost_are_those_below_no_other(paths: set[bytes]) -> None:
    kept = outermost(paths)
    assert set(kept) == {path for path in paths if not any(one in paths for one in ancestors(path))}
    assert all(below(path, set(kept)) for path in paths)


@pytest.mark.parametrize("command", sorted(set(Command) - {Command.END, Command.SUBVOL, Command.SNAPSHOT}))
def test_no_command_is_passed_over(command: Command) -> None:
    """Whatever a command does to a file, of either version, its path is looked at."""
    touched = Touched()
    touched.apply(command, {Attribute.PATH: b"d/f", Attribute.PATH_TO: b"d/g", Attribute.PATH_LINK: b"d/h"})
    alone, whole = touched.paths()
    assert b"d/f" in alone | whole


def test_names_with_newlines_and_backslashes_are_bytes() -> None:
    assert play((Command.UNLINK, b"a\n\\/b\n"), (Command.RENAME, b"\n", b"\xff\n")) == (
        {b"\xff\n"},
        {b"a\n\\/b\n", b"\n", b"\xff\n"},
    )
