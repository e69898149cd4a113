"""The `cowstore` command on one store, as a test calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from pathlib import Path

COWSTORE = [sys.executable, "-P", "-m", "cowstore.cli.main"]


class Shell:
    """Runs the command on one store."""

    def __init__(self, root: Path, driver: str) -> None:
        self.root = root
        self.driver = driver

    def __call__(self, *words: str | os.PathLike[str], status: int = 0, data: bytes | None = None) -> str:
        """Run it, and return standard output. It must end with *status*; only a failure may write to standard error."""
        done = self.run(*words, data=data)
        assert done.returncode == status, done.stderr.decode()
        if status == 0:
            assert done.stderr == b""
        return done.stdout.decode("utf-8", "surrogateescape")

    def run(self, *words: str | os.PathLike[str], data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        command = [*COWSTORE, "--store", self.root, "--driver", self.driver, *words]
        return subprocess.run(command, capture_output=True, input=data, timeout=60, check=False)

    def fails(self, *words: str | os.PathLike[str], status: int = 1) -> str:
        """Run what must fail, with one line on standard error, and return that line."""
        done = self.run(*words)
        assert done.returncode == status, done.stdout
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("cowstore: ")
        return lines[0]

    def json(self, *words: str | os.PathLike[str], status: int = 0) -> object:
        return json.loads(self("--json", *words, status=status))

    def keys(self) -> set[str]:
        found = self.json("ls")
        assert isinstance(found, list)
        return {snapshot["key"] for snapshot in found}
