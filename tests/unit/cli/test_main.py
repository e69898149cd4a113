"""The command line of `cowstore`: what it prints, and the status it ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

COWSTORE = [sys.executable, "-P", "-m", "cowstore.cli.main"]

HEAVY = {
    "asyncio",
    "concurrent.futures",
    "cowstore._linux",
    "cowstore.catalog",
    "cowstore.driver",
    "cowstore.store",
    "ctypes",
    "dataclasses",
    "hashlib",
    "importlib.metadata",
    "json",
    "logging",
    "pathlib",
    "rich",
    "socket",
    "sqlite3",
    "subprocess",
    "tarfile",
    "tempfile",
    "typing",
    "zoneinfo",
}


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload]
        [*COWSTORE, *words], **{"capture_output": True, "text": True, "timeout": 60, "check": False, **options}
    )


def test_version_imports_nothing_heavy() -> None:
    script = (
        "import sys; before = set(sys.modules); from cowstore.cli.main import main; main(['--version']);"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("cowstore ")
    assert HEAVY & set(done.stderr.split()) == set()


@pytest.mark.parametrize("words", [["--help"], ["ls", "--help"], ["import", "-h"]])
def test_help(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: cowstore")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "COMMAND"),
        (["frob"], "frob"),
        (["ls", "--bogus"], "--bogus"),
        (["import", "x"], "--name"),
        (["prepare", "k", "--size", "big"], "'big' is not a size"),
        (["--option", "x", "ls"], "NAME=VALUE"),
        (["--json", "prepare"], "KEY"),
    ],
)
def test_wrong_command_line(words: list[str], says: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("cowstore: ")
    assert done.stderr.count("\n") == 1, "one line"
    if "--json" in words:
        assert json.loads(done.stdout)["error"]["class"] == "UsageError"
    else:
        assert done.stdout == ""


@pytest.mark.parametrize("words", [["ls"], ["tree"], ["df"], ["changes", "k"], ["rm", "k"], ["check"], ["destroy"]])
def test_no_store(words: list[str], tmp_path: Path) -> None:
    """Nothing is made for a command that cannot need a new store."""
    missing = tmp_path / "missing"
    done = run("--json", "--store", str(missing), *words)
    assert done.returncode == 1
    assert str(missing) in done.stderr
    assert done.stderr.count("\n") == 1
    assert "error" in json.loads(done.stdout)
    assert not missing.exists()


def test_a_file_as_store(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    done = run("--store", str(path), "prepare", "k")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert path.read_text() == "mine"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("--store", str(tmp_path / "missing"), "ls", env={**os.environ, "COWSTORE_DEBUG": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_stdout(unbuffered: str) -> None:
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = run("--help", capture_output=False, stdout=full, stderr=subprocess.PIPE, env=environment)
    assert done.returncode == 1
    assert done.stderr == "cowstore: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_of_stdout_is_gone(unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = run("--help", capture_output=False, stdout=write, stderr=subprocess.PIPE, env=environment)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_closed_standard_descriptors() -> None:
    done = subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *COWSTORE, "--version"], timeout=60, check=False)
    assert done.returncode == 0
