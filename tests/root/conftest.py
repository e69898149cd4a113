"""The root tier: every test ends with a leak check."""

from __future__ import annotations

from tests.leakcheck import nothing_left_behind

__all__ = ["nothing_left_behind"]
