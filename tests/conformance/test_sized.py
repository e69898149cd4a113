"""Cases of the suite over snapshots of limited size: images everywhere, project quotas where the kernel has them.

With COWSTORE_TEST_SIZED=all, all cases but the slow ones.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import cowstore.testing
from cowstore._linux.capabilities import Cap, capget
from cowstore.testing import Case, Factory, NotApplicable, faults
from tests.conformance import ground
from tests.root.drivers.ground import quotas_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from cowstore.model import Snapshot
    from cowstore.store import Store

CHOSEN = frozenset((
    "snapshots.basic",
    "snapshots.root_permission",
    "graph.create_snap",
    "graph.quota",
    "graph.mounted_twice",
    "lifecycle.data_in_the_way",
    "lifecycle.read_only_store",
    "lifecycle.remove_while_mounted",
    "fidelity.attributes",
    "usage.exact",
    "usage.while_mounted",
    "namespaces.killed_while_mounted",
))  # fmt: skip
"""Those that an image or a project is most likely to get in the way of."""

EVERYTHING = os.environ.get("COWSTORE_TEST_SIZED") == "all"
SCENARIOS = ("prepare with a size", "set the size", "commit", "remove an active one")
QUICK = {"prepare with a size"}
"""That in which most is made; a kill elsewhere leaves nothing that the bare drivers' tests do not meet."""

NEEDS_BARE_DIRECTORY = {
    # It asks for what quotas and images refuse, or gives snapshots other sizes than these.
    "graph.quota_or_refusal",
}


class Limited(Factory):
    """Makes stores in which every snapshot is prepared with a size."""

    def open(self, root: str | bytes, **changed: object) -> Store:
        """Open, or make, the store at *root*."""
        store = super().open(root, **changed)
        prepare = store.prepare

        def limited(key: str, parent: str | None = None, **more: Any) -> Snapshot:
            return prepare(key, parent, **{"size_bytes": 64 << 20, **more})

        store.prepare = limited  # type: ignore[method-assign]
        return store


GROWING = {"graph.quota", "set the size"}


def _need_to_grow(name: str, factory: Factory) -> None:
    """Skip what makes images larger where the kernel does not let this root grow an ext4."""
    if name in GROWING and factory.options and not capget()[0] >> Cap.SYS_RESOURCE & 1:
        pytest.skip("elsewhere: this root has no CAP_SYS_RESOURCE; the kernel tier's has: `tox -e kernel`")


def _cases() -> list[Case]:
    return [
        case
        for case in cowstore.testing.cases()
        if case.name in CHOSEN or (EVERYTHING and not case.slow and case.name not in NEEDS_BARE_DIRECTORY)
    ]


@pytest.fixture(params=["overlay-image", "copy-image", "overlay-ext4", "overlay-xfs", "copy-xfs"])
def sized(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Factory]:
    """Makes stores whose snapshots are images, or directories in projects."""
    if os.geteuid() != 0:
        pytest.skip("the root tier needs root: type `sudo make test`")
    driver, kind = request.param.split("-")
    if driver not in ground.drivers():
        pytest.skip(f"elsewhere: {driver} was not asked for")
    if kind == "image":
        (tmp_path / "suite").mkdir()
        with Limited(driver, options={"backing": "image"}, directory=str(tmp_path / "suite")) as factory:
            yield factory
        return
    with (
        quotas_at(tmp_path / "fs", kind, size_bytes=1 << 30) as path,
        Limited(driver, directory=str(path)) as factory,
    ):
        yield factory


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.name)
def test_case(case: Case, sized: Factory) -> None:
    _need_to_grow(case.name, sized)
    try:
        cowstore.testing.run(case, sized)
    except NotApplicable as reason:
        pytest.skip(f"elsewhere: {case.name}: {reason}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCENARIOS if EVERYTHING or name in QUICK])
def test_killed_at_every_point(name: str, sized: Factory) -> None:
    _need_to_grow(name, sized)
    if sized.driver == "copy" and not EVERYTHING:
        pytest.skip("elsewhere: overlay, whose trees are in images and projects as copy's are")
    scenario = next(scenario for scenario in faults.SCENARIOS if scenario.name == name)
    for point in faults.points(sized, scenario):
        faults.kill(sized, point)
