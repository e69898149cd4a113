"""Global options before and after the command, sizes, and pairs."""

from __future__ import annotations

import argparse

import pytest

from cowstore.cli import _parser


def parse(*words: str) -> argparse.Namespace:
    arguments = _parser.build().parse_args(list(words))
    _parser.merge_globals(arguments)
    return arguments


@pytest.mark.parametrize(
    "words",
    [
        ["--store", "/s", "--driver", "copy", "--option", "a=1", "--option", "b=2", "--json", "ls"],
        ["ls", "--store", "/s", "--driver", "copy", "--option", "a=1", "--option", "b=2", "--json"],
        ["--store", "/s", "--option", "a=1", "ls", "--driver", "copy", "--option", "b=2", "--json"],
    ],
)
def test_global_options_may_stand_on_both_sides(words: list[str]) -> None:
    arguments = parse(*words)
    assert (arguments.store, arguments.driver, arguments.json) == ("/s", "copy", True)
    assert arguments.option == {"a": "1", "b": "2"}


def test_the_later_one_wins() -> None:
    arguments = parse("--store", "/one", "--option", "a=1", "ls", "--store", "/two", "--option", "a=2")
    assert (arguments.store, arguments.option) == ("/two", {"a": "2"})


def test_parsing_twice_starts_afresh() -> None:
    parse("--option", "a=1", "ls", "--option", "b=1")
    assert parse("ls").option == {}


def test_a_value_may_hold_equals_signs() -> None:
    assert _parser.pair("a=b=c") == ("a", "b=c")
    assert _parser.pair("a=") == ("a", "")


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("2K", 2048), ("3MiB", 3 << 20), ("1g", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert _parser.size(text) == size


def test_every_command_has_a_handler() -> None:
    import importlib

    commands = next(action for action in _parser.build()._actions if isinstance(action, argparse._SubParsersAction))
    assert set(commands.choices) >= {
        "info", "ls", "tree", "import", "prepare", "view", "commit", "rm",
        "mount", "umount", "changes", "df", "check", "destroy",
    }  # fmt: skip
    for parser in commands.choices.values():
        module, _, function = parser.get_default("handler").partition(":")
        assert callable(getattr(importlib.import_module(f"cowstore.cli.{module}"), function))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["comit"], "there is no command 'comit'; did you mean commit? `cowstore --help` lists them"),
        (["bogus"], "there is no command 'bogus'; `cowstore --help` lists them"),
        (["squash", "a", "b", "--name", "c"], "squash takes no --name c; try `cowstore squash --help`"),
        ([], "the following arguments are required: COMMAND; try `cowstore --help`"),
        (["commit", "a"], "the following arguments are required: KEY; try `cowstore commit --help`"),
    ],
)
def test_wrong_words_are_told_with_a_way_out(words: list[str], said: str) -> None:
    with pytest.raises(_parser.UsageError) as caught:
        parse(*words)
    assert str(caught.value) == said
