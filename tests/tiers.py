"""What a test may need from the machine, and how it says that it is missing."""

from __future__ import annotations

import os
import shutil

import pytest

EXCUSED = ("not proven:", "elsewhere:")
"""How the reason of a skip begins that is no failure in CI.

``not proven:`` is for what no available kernel can run; ``elsewhere:`` for what another tier of the same run proves.
"""


def in_ci() -> bool:
    """Tell whether a skip is a failure."""
    return os.environ.get("CI", "").lower() in {"true", "1"}


def need_program(*names: str) -> None:
    """Skip the test unless all the programs are there, naming those that are not."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs the program {', '.join(missing)}: type `sudo make test`, or see tests/debian-packages.txt")
