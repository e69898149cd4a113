"""The example of docs/writing-a-driver.md, installed as another package would be, in front of the same suite."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore.testing
from cowstore.testing import Case, Factory, NotApplicable

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "docs" / "examples" / "plain_driver.py"


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """A directory on the path that looks as an installer leaves it: the module, and its entry point."""
    # Not pytest's temporary directory, which an ordinary user (one of the cases is one) may not enter.
    site = Path(tempfile.mkdtemp(prefix="cowstore-example-"))
    site.chmod(0o755)
    shutil.copy(EXAMPLE, site)
    info = site / "plain_driver-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-driver\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cowstore.drivers]\nplain = plain_driver:Plain\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("PYTHONPATH", str(site), prepend=":")
        importlib.invalidate_caches()
        yield site
    sys.modules.pop("plain_driver", None)
    shutil.rmtree(site)


def test_it_is_found(installed: Path) -> None:
    from cowstore.drivers import load, names

    assert "plain" in names()
    assert load("plain").name == "plain"
    assert Path(str(sys.modules["plain_driver"].__file__)).parent == installed


def test_it_is_about_sixty_lines() -> None:
    assert len([line for line in EXAMPLE.read_text().splitlines() if line.strip()]) <= 65


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in cowstore.testing.cases() if not case.slow]
)
def test_case(case: Case, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Factory("plain", directory=str(tmp_path_factory.mktemp("plain")), volatile=True) as factory:
        try:
            cowstore.testing.run(case, factory)
        except NotApplicable as reason:
            pytest.skip(f"elsewhere: {case.name} on the example: {reason}")
