"""The planted bugs fit the code as it is: one that no longer does would be found late, by the slowest tier."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.mutants import runner

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("mutant", runner.mutants(), ids=lambda mutant: mutant.name)
def test_applies_and_still_is_python(mutant: runner.Mutant, tmp_path: Path) -> None:
    touched = [line[6:].strip() for line in mutant.text.splitlines() if line.startswith("+++ b/")]
    for name in touched:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(runner.ROOT / name, tmp_path / name)
    before = {name: (tmp_path / name).read_text(encoding="utf-8") for name in touched}
    runner.apply(mutant.text, tmp_path)
    for name in touched:
        after = (tmp_path / name).read_text(encoding="utf-8")
        assert after != before[name]
        compile(after, name, "exec")
