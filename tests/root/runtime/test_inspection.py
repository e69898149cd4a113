"""What the documentation prints of a process's look at itself is what one says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.root.rootless.conftest import User, user

__all__ = ["user"]

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PAGE = ROOT / "docs/runtime.md"
SCRIPT = (ROOT / "docs/examples/inspection.py").read_text()
WORDS = ["--", "/usr/bin/python3", "-I", "-S", "-c", SCRIPT]


def printed(title: str) -> str:
    """Return what the page prints under a line that ends with *title*."""
    _, _, rest = PAGE.read_text().partition(f"{title}:\n\n```text\n")
    text, _, _ = rest.partition("```\n")
    return text


def by_root(store: Path) -> str:
    command = [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", str(store), *WORDS]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_of_root(tmp_path: Path) -> None:
    assert printed("as root") == by_root(tmp_path / "store")


def test_of_an_ordinary_user(user: User) -> None:
    assert printed("as an ordinary user") == user.cowstore_run(*WORDS)


@pytest.mark.parametrize("name", ["runc", "crun"])
def test_of_a_bundle(tmp_path: Path, name: str) -> None:
    """The same through other runtimes, process 1 excepted, which is the program itself there."""
    command = [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", str(tmp_path / "store"), "--runtime", name]
    done = subprocess.run([*command, *WORDS], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.replace("processes seen:   1", "processes seen:   2")
    assert said == printed("as root")
