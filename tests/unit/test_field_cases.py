"""Each report from the field about the runtime is a test that names it, or has a written reason."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REPORTS = (1, 2, 4, 5, 7, 9, 11, 12, 13, 14, 15, 17, 18, 19, 22, 23, 24, 25, 28)
"""Numbers of the reports about running processes; the missing ones were folded into others."""


def test_every_report_about_the_runtime() -> None:
    named = set()
    for path in ROOT.joinpath("tests").rglob("test_*.py"):
        named |= set(re.findall(r"\bRT-(\d\d)\b", path.read_text()))
    excused = set(re.findall(r"^\| RT-(\d\d)", (ROOT / "docs/cases.md").read_text(), re.MULTILINE))
    assert {f"{number:02}" for number in REPORTS} == named | excused
    assert not named & excused, "a reason for what has a test"
