"""The examples of docs/quickstart.md that need no other machine, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.root.test_readme import _install

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "quickstart.md").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a small debian.tar in it."""
    source = tmp_path / "debian"
    (source / "etc").mkdir(parents=True)
    (source / "etc/motd").write_text("before\n")
    for name in ("bin", "lib", "lib64", "usr"):
        (source / name).mkdir()
    _install("/bin/cat", source)
    with tarfile.open(tmp_path / "debian.tar", "w") as archive:
        for name in sorted(os.listdir(source)):
            archive.add(source / name, name)
    return tmp_path


def block(heading: str, language: str) -> str:
    found = re.search(rf"## {heading}\n.*?```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, heading
    return found[1]


def run(words: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    script = 'cowstore() { "$PYTHON" -P -m cowstore.cli.main --store "$STORE" "$@"; }\n'
    if words[0] == "sh":
        words = ["sh", "-c", script + words[1]]
    environment = {**os.environ, "PYTHON": sys.executable, "STORE": str(place / "store")}
    return subprocess.run(words, capture_output=True, text=True, timeout=100, check=False, cwd=place, env=environment)


def test_from_a_program(place: Path) -> None:
    script = block("The same from a program", "python").replace('"/srv/store"', repr(str(place / "store")))
    done = run([sys.executable, "-P", "-c", script], place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "modified etc\nmodified etc/motd\nhi\n"


def test_from_a_shell(place: Path) -> None:
    """Each command says just what the page shows."""
    text = block("The same from a shell", "console").replace("/mnt", f"{place}/mnt")
    (place / "mnt").mkdir()
    for step in re.findall(r"^# (.*\n(?:[^#].*\n)*)", text, re.MULTILINE):
        command, _, expected = step.partition("\n")
        done = run(["sh", command], place)
        assert (done.returncode, done.stdout) == (0, expected), (command, done.stderr)
