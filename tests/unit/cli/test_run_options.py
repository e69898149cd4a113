"""The command line of cowstore-run."""

from __future__ import annotations

import pytest

from cowstore.cli._run_options import HELP, UsageError, parse


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (["ls", "-l", "--help"], ["ls", "-l", "--help"]),
        (["--changes", "ls", "--changes", "--", "-x"], ["ls", "--changes", "--", "-x"]),
        (["sh", "-c", 'echo "$@"', "x", "-v", "--rm"], ["sh", "-c", 'echo "$@"', "x", "-v", "--rm"]),
        (["--", "--changes"], ["--changes"]),
        (["--base", "debian", "--", "--", "x"], ["--", "x"]),
        (["-"], ["-"]),
    ],
)
def test_what_stands_behind_the_program_is_its_own(words: list[str], argv: list[str]) -> None:
    """CL-03."""
    assert parse(words).argv == argv


def test_every_option() -> None:
    words = (
        "--store /s --driver=copy --option a=b=c --base k --changes --commit=n --network host --hostname h "
        "--workdir /w --env A=b=c --env=B= --as-pid-1 --timeout 1.5 --print-plan true"
    )
    options = parse(words.split())
    assert (options.store, options.driver, options.option) == ("/s", "copy", {"a": "b=c"})
    assert (options.base, options.changes, options.commit, options.network) == ("k", True, "n", "host")
    assert (options.hostname, options.workdir, options.env) == ("h", "/w", {"A": "b=c", "B": ""})
    assert (options.as_pid_1, options.timeout, options.print_plan, options.argv) == (True, 1.5, True, ["true"])


def test_a_variable_can_be_taken_over_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert parse(["--env", "LANG", "true"]).env == {"LANG": "C.UTF-8"}


def test_switches_take_a_truth_or_nothing() -> None:
    """CL-06."""
    assert parse(["--read-only=true", "true"]).read_only
    assert not parse(["--read-only=false", "true"]).read_only
    with pytest.raises(UsageError, match="=true or =false"):
        parse(["--read-only=maybe", "true"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no program"),
        (["--"], "no program"),
        (["--changes"], "no program"),
        (["--nonsense", "true"], "no option --nonsense"),
        (["-x", "true"], "no option -x"),
        (["--base"], "needs a value"),
        (["--env", "=x", "true"], "NAME=VALUE"),
        (["--option", "x", "true"], "NAME=VALUE"),
        (["--env", "NO_SUCH_VARIABLE_HERE", "true"], "no such variable"),
        (["--network", "bridge", "true"], "none, host or user"),
        (["--timeout", "soon", "true"], "number of seconds"),
        (["--timeout=-1", "true"], "number of seconds"),
        (["--timeout=nan", "true"], "number of seconds"),
        (["--read-only", "--changes", "true"], "cannot go together"),
        (["--read-only", "--commit", "x", "true"], "cannot go together"),
        (["--keep", "a", "--commit", "b", "true"], "cannot go together"),
        (["--base", "x", "--with-mounts", "true"], "without --base"),
    ],
)
def test_what_cannot_be_understood_is_refused(words: list[str], says: str) -> None:
    """CL-05."""
    with pytest.raises(UsageError, match=says):
        parse(words)


def test_help_fits_one_screen() -> None:
    lines = HELP.splitlines()
    assert len(lines) <= 48
    assert max(map(len, lines)) <= 110
    assert parse(["--help"]).help
    assert parse(["-h", "whatever"]).help
    assert parse(["--version"]).version
