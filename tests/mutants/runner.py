"""Plant a bug in a copy of the package, and see whether the suite catches it.

    python -m tests.mutants.runner                 all of them, one line each
    python -m tests.mutants.runner overlay-1 …     those

Each ``DRIVER-N-what.patch`` (or ``store-…``) begins with lines of prose; a line ``Caught by: CASE, CASE …`` names the cases (or
``faults: SCENARIO``, ``model: SEEDS``, ``crowd: SEEDS``) that are run against the mutant. One of them must fail, and all
of them pass without the patch, which the ordinary run of the suite shows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted bug."""

    name: str
    driver: str
    caught_by: tuple[str, ...]
    text: str


def mutants() -> list[Mutant]:
    """Read the patches."""
    found = []
    for path in sorted(HERE.glob("*.patch")):
        text = path.read_text(encoding="utf-8")
        line = re.search(r"^Caught by: (.+)$", text, re.MULTILINE)
        if line is None:
            raise ValueError(f"{path.name} does not say what catches it")
        cases = tuple(part.strip() for part in line[1].split(","))
        where = path.stem.split("-")[0]
        # Bugs of the store show on any driver; on the copying one least is hidden by the kernel.
        driver = "copy" if where == "store" else where
        found.append(Mutant(name=path.stem, driver=driver, caught_by=cases, text=text))
    return found


def apply(patch: str, package: Path) -> None:
    """Apply a unified diff to the directory that holds the package, wherever the lines have moved to.

    :raises ValueError: the lines a hunk wants to change are not there just once.
    """
    target: Path | None = None
    for part in re.split(r"^(?=--- |@@ )", patch, flags=re.MULTILINE):
        head, _, body = part.partition("\n")
        if head.startswith("--- "):
            target = package / head[4:].split("\t")[0].removeprefix("a/").strip()
        elif head.startswith("@@ "):
            assert target is not None
            _hunk(target, body)


def _hunk(target: Path, body: str) -> None:
    lines = [line for line in body.splitlines() if line[:1] in {" ", "+", "-"} and not line.startswith("+++")]
    old = "".join(f"{line[1:]}\n" for line in lines if line[0] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[0] != "-")
    text = target.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{target.name}: the lines to change are there {text.count(old)} times:\n{old}")
    target.write_text(text.replace(old, new), encoding="utf-8")


def survives(mutant: Mutant) -> str | None:
    """Run the mutant against the cases that should catch it; None if it is caught, otherwise what the cases said."""
    with tempfile.TemporaryDirectory(prefix="cowstore-mutant-") as directory:
        shutil.copytree(ROOT / "cowstore", Path(directory) / "cowstore", ignore=shutil.ignore_patterns("__pycache__"))
        apply(mutant.text, Path(directory))
        done = subprocess.run(
            [sys.executable, str(HERE / "inside.py"), mutant.driver, *mutant.caught_by],
            env={**os.environ, "PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    if done.returncode == 10:
        return None
    return f"status {done.returncode}\n{done.stdout}{done.stderr}"


def main(names: list[str]) -> int:
    """Try the mutants whose names begin with one of *names*; the status is the number of survivors."""
    survivors = 0
    for mutant in mutants():
        if names and not mutant.name.startswith(tuple(names)):
            continue
        said = survives(mutant)
        print(f"{mutant.name}: {'caught' if said is None else 'SURVIVED'}", flush=True)
        if said is not None:
            survivors += 1
            print(said)
    return survivors


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
