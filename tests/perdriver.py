"""Counts tests by driver: the last lines of a run are one for each, ``devicemapper: 152 passed``.

With ``COWSTORE_TALLY=DIR`` the counts are written there too, one file for each run of pytest, so that the kernel tier
can add up those of its guests; :func:`added` reads them, :func:`lines` words them.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cowstore.drivers import BUILT_IN
from tests.tiers import EXCUSED

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    Tally = Mapping[str, Mapping[str, int]]

DIRECTORY = "COWSTORE_TALLY"
NOT_PROVEN = EXCUSED[0]
UNIT = Path(__file__).resolve().parent / "unit"


def of(item: pytest.Item) -> str | None:
    """Tell which driver a test proves something about; None if it is about no certain one, or asks no kernel."""
    if UNIT in item.path.parents:
        return None
    values = getattr(item, "callspec", None)
    for value in values.params.values() if values is not None else ():
        # A driver, a driver on a file system, or a bug planted in a driver.
        name = value if isinstance(value, str) else getattr(value, "name", None)
        if isinstance(name, str) and name.partition("-")[0] in BUILT_IN:
            return name.partition("-")[0]
    parts = [*item.path.parts[-3:-1], *item.path.stem.removeprefix("test_").split("_")]
    return next((part for part in parts if part in BUILT_IN), None)


class PerDriver:
    """The plugin; a test counts once, by the worst of its three phases."""

    def __init__(self) -> None:
        self._outcomes: dict[str, tuple[str, str]] = {}
        self._unproven: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        report.user_properties.append(("driver", of(item)))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        driver = dict(report.user_properties).get("driver")
        if not isinstance(driver, str):
            return
        known = self._outcomes.get(report.nodeid, (driver, "passed"))[1]
        if report.failed or known == "failed":
            known = "failed"
        elif report.skipped:
            known = "not proven" if NOT_PROVEN in str(report.longrepr) else "skipped"
        self._outcomes[report.nodeid] = (driver, known)

    def tally(self) -> dict[str, dict[str, int]]:
        found: dict[str, Counter[str]] = {}
        for driver, outcome in self._outcomes.values():
            found.setdefault(driver, Counter())[outcome] += 1
        return {driver: dict(counts) for driver, counts in sorted(found.items())}

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        counted = self.tally()
        if counted:
            terminalreporter.section("DRIVERS")
            for line in lines(counted):
                terminalreporter.write_line(line)
        directory = os.environ.get(DIRECTORY)
        if directory:
            Path(directory, f"{uuid.uuid4()}.json").write_text(json.dumps(counted), encoding="utf-8")


def added(directory: Path) -> dict[str, dict[str, int]]:
    """Add up what several runs counted into one directory."""
    total: dict[str, Counter[str]] = {}
    for path in directory.glob("*.json"):
        for driver, counts in json.loads(path.read_text(encoding="utf-8")).items():
            total.setdefault(driver, Counter()).update(counts)
    return {driver: dict(counts) for driver, counts in sorted(total.items())}


def lines(tally: Tally) -> Iterable[str]:
    """Say it: what was skipped is proven elsewhere or listed as not run, and neither passed nor failed."""
    for driver, counts in tally.items():
        parts = [f"{counts[word]} {word}" for word in ("passed", "failed") if counts.get(word)]
        if parts:
            yield f"{driver}: {', '.join(parts)}"
        elif counts.get("not proven"):
            yield f"{driver}: not proven on this kernel"
        else:
            yield f"{driver}: nothing to prove here"
