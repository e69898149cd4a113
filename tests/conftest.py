"""What all tiers share: where the package comes from, and that nothing is skipped in silence.

A tier or test that cannot run says so at the end of the output. With ``CI=true`` every skip is a failure, except those
whose reason begins with one of :data:`tests.tiers.EXCUSED`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    # Behind the installed packages: the tests are found here, and cowstore itself where it is installed.
    sys.path.append(str(ROOT))

from tests import perdriver, tiers  # noqa: E402  # needs the line above

_skipped: dict[str, int] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(perdriver.PerDriver(), "cowstore-per-driver")


def pytest_report_header() -> str:
    import cowstore._version as version

    where = Path(version.__file__).parent
    return f"cowstore {version.__version__} from {where}; uid {os.geteuid()}; CI={tiers.in_ci()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    needs_root = pytest.mark.skip(reason="the root tier needs root: type `sudo make test`")
    for item in items:
        if ROOT / "tests" / "root" in item.path.parents:
            item.add_marker(needs_root)


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Count a skip for the summary; in CI turn it into a failure unless it is excused."""
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    _skipped[reason] = _skipped.get(reason, 0) + 1
    if tiers.in_ci() and not reason.startswith(tiers.EXCUSED):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _skipped:
        return
    terminalreporter.section("NOT RUN (a failure in CI unless excused)", yellow=True, bold=True)
    for reason, count in sorted(_skipped.items()):
        terminalreporter.write_line(f"{count:5} x {reason}")
