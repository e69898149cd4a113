"""What leaves on standard output and error: one line each, every byte told apart, JSON that parses."""

from __future__ import annotations

import errno
import json

import pytest

from cowstore.cli import _output
from cowstore.errors import Busy, NotFound
from cowstore.results import Change, ChangeKind


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines", "two\\x0alines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("unit\\x2dname", "unit\\x2dname"),
        ("häßlich", "häßlich"),
        ("byte\udcff", "byte\udcff"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    assert _output.one_line(text) == shown


@pytest.mark.parametrize(("kind", "letter"), [("added", "A"), ("modified", "M"), ("deleted", "D")])
def test_change_line(kind: str, letter: str) -> None:
    assert _output.change_line(Change(kind=ChangeKind(kind), path="etc/motd")) == f"{letter} etc/motd"


@pytest.mark.parametrize(
    ("size_bytes", "shown"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5.0 TiB"), (-1, "?")]
)
def test_human_size(size_bytes: int, shown: str) -> None:
    assert _output.human_size(size_bytes) == shown


def test_an_error_is_one_line() -> None:
    assert _output.describe(NotFound("no\nsuch", key="k")) == "no such"
    assert _output.describe(OSError(errno.ENOENT, "No such file or directory", "/x\n")) == (
        "/x : No such file or directory"
    )
    assert _output.describe(NotFound("")) == "NotFound"
    assert _output.describe(NameError("x")).startswith("internal error, please report it: NameError: x")


def test_the_note_of_a_kernel_call_is_shown() -> None:
    error = OSError(errno.EINVAL, "Invalid argument", "/mnt")
    error.add_note("fsconfig(2): bad option")
    assert _output.describe(error) == "/mnt: Invalid argument (fsconfig(2): bad option)"


def test_an_error_as_json_carries_its_facts() -> None:
    document = json.loads(_output.error_document(Busy("it is busy", key="k", holders=(1, 2))))
    assert document == {"error": {"class": "Busy", "message": "it is busy", "key": "k", "holders": [1, 2]}}


def test_a_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    _output.Output(json=False).table(("KEY", "KIND"), [("a", "active"), ("longer", "view")])
    assert capsys.readouterr().out == "KEY     KIND\na       active\nlonger  view\n"
