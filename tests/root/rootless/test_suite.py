"""Cases of the suite by an ordinary user, in a namespace of his own: `cowstore unshare -- PROGRAM`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.root.rootless.conftest import User

SUITE = """
import json, sys
import cowstore.testing

said = {"passed": [], "failed": {}, "not asked": {}}
with cowstore.testing.Factory(sys.argv[1]) as factory:
    for case in cowstore.testing.cases():
        if case.slow or not case.name.startswith(tuple(sys.argv[2:])):
            continue
        try:
            cowstore.testing.run(case, factory)
        except cowstore.testing.NotApplicable as reason:
            said["not asked"][case.name] = str(reason)
        except Exception as error:
            said["failed"][case.name] = f"{type(error).__name__}: {error}"
        else:
            said["passed"].append(case.name)
print(json.dumps(said))
"""

CHOSEN = (
    "snapshots.basic", "snapshots.re", "graph.c", "graph.h", "graph.mount", "filesystem.link", "filesystem.re",
    "filesystem.nested", "lifecycle.commit", "lifecycle.remove", "lifecycle.e", "fidelity.names", "fidelity.s",
    "fidelity.modes", "grounds.path_co", "usage", "honesty.v", "namespaces.fork", "namespaces.two",
)  # fmt: skip
"""Beginnings of names: some of each sort, and those that a user's overlays are most likely to fail."""


@pytest.mark.timeout(240)
def test_cases(user: User, driver: str) -> None:
    script = user.home / "suite.py"
    script.write_text(SUITE)
    unshare = (user.python, "-m", "cowstore.cli.main", "unshare", "--")
    done = user.run(*unshare, user.python, script, driver, *CHOSEN, timeout=200)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["failed"] == {}
    assert set(said["not asked"].values()) <= {"only root can ask this"}, said["not asked"]
    assert len(said["passed"]) > 35, said
