"""What dead processes leave, and who may clean up after whom."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import FindingKind, Kind, NotFound, _faults, leases

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cowstore import Store


def _die_at(point: str, root: Path, work: Callable[[Store], object]) -> None:
    """Let a child do *work* on the store and kill itself at the fault point."""
    pid = os.fork()
    if pid == 0:

        def kill(name: str) -> None:
            if name == point:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            _faults.hook = kill
            work(cowstore.open(root, driver="plain"))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def _commit(store: Store) -> None:
    store.prepare("job")
    store.commit("layer", "job", labels={"x": "y"})


def _remove(store: Store) -> None:
    store.prepare("job")
    store.remove("job")


def _import(store: Store) -> None:
    store.import_directory("/etc/default", name="layer")


@pytest.mark.parametrize(
    ("point", "work", "left"),
    [
        ("store.prepare.recorded", lambda store: store.prepare("job"), set()),
        ("store.prepare.created", lambda store: store.prepare("job"), set()),
        ("store.view.recorded", lambda store: store.view("look", "base"), set()),
        ("store.commit.recorded", _commit, {"layer"}),
        ("store.commit.sealed", _commit, {"layer"}),
        ("store.remove.recorded", _remove, set()),
        ("store.remove.removed", _remove, set()),
        ("store.import.recorded", _import, set()),
        ("store.import.created", _import, set()),
        ("store.import.filled", _import, set()),
        ("store.import.sealed", _import, set()),
    ],
)
def test_killed_between_two_steps(
    opened: Callable[..., Store], root: Path, point: str, work: Callable[[Store], object], left: set[str]
) -> None:
    """ST-01: nothing half-made is ever visible; the next open finishes or undoes it."""
    witness = opened()
    witness.prepare("base-key")
    witness.commit("base", "base-key")
    _die_at(point, root, work)
    assert FindingKind.UNFINISHED in {finding.kind for finding in witness.check()}
    assert {snapshot.key for snapshot in witness.walk()} - {"job"} == {"base"}
    store = opened()
    assert store.check() == ()
    assert {snapshot.key for snapshot in store.walk()} == {"base"} | left
    if left:
        layer = store.stat("layer")
        assert layer.kind is Kind.COMMITTED
        assert layer.labels == {"x": "y"}
    else:
        store.prepare("job")
    living = {witness._core.token, store._core.token}
    assert set(os.listdir(root / "owners")) <= living


def test_who_ends_while_check_looks(opened: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process does what it was seen at, and closes its store: it left nothing behind."""
    witness, other = opened(), opened()
    other.prepare("job", ephemeral=True)
    catalog = witness._core.catalog
    rows = catalog.rows

    def then_ended() -> list[object]:
        found: list[object] = list(rows())
        other.remove("job")
        other.close()
        return found

    monkeypatch.setattr(type(catalog), "rows", lambda _: then_ended())
    assert witness.check() == ()


def test_ten_of_them_at_once(opened: Callable[..., Store], root: Path) -> None:
    """ST-17: clean-up does not trip over the list it walks."""

    def work(store: Store) -> None:
        for number in range(10):
            store.prepare(str(number), ephemeral=True)
        store.prepare("last")

    pid = os.fork()
    if pid == 0:
        work(cowstore.open(root, driver="plain"))
        os._exit(0)
    os.waitpid(pid, 0)
    assert [snapshot.key for snapshot in opened().walk()] == ["last"]


def test_the_living_are_left_alone(opened: Callable[..., Store]) -> None:
    first = opened()
    first.prepare("short", ephemeral=True)
    second = opened()
    assert second.cleanup() == ()
    second.stat("short")
    first.close()
    with pytest.raises(NotFound):
        second.stat("short")


def test_a_snapshot_in_use_outlives_its_owner(opened: Callable[..., Store], root: Path) -> None:
    """A process that still runs on a dead owner's snapshot keeps it until it ends."""
    witness = opened()
    pid = os.fork()
    if pid == 0:
        cowstore.open(root, driver="plain").prepare("short", ephemeral=True)
        os._exit(0)
    os.waitpid(pid, 0)
    with witness.leased("short"):
        opened().stat("short")
    with pytest.raises(NotFound):
        opened().stat("short")


def test_ids_are_not_given_out_again(opened: Callable[..., Store], root: Path) -> None:
    """After a power cut has taken rows that were not synced, data of theirs keep their ids from being used."""
    store = opened()
    store.prepare("job")
    store.close()
    (root / "plain/41").mkdir()
    store = opened()
    store._core.catalog.set_meta("boot", "another boot")
    store.close()
    assert opened().prepare("next").id == 42


@pytest.mark.parametrize("sealed", [False, True])
def test_data_of_lost_rows(
    opened: Callable[..., Store], root: Path, monkeypatch: pytest.MonkeyPatch, *, sealed: bool
) -> None:
    """Data whose rows a power cut took go; where some of it is sealed, the catalog is an older copy, and all stays."""
    store = opened()
    store.prepare("job")
    store.close()
    for id in (41, 42):
        (root / f"plain/{id}").mkdir()
    monkeypatch.setattr("tests.unit.store.plain.Plain.is_unsealed", lambda _self, id: not sealed or id != 41)
    store = opened()
    store._core.catalog.set_meta("boot", "another boot")
    store.close()
    store = opened()
    assert len(store.check()) == (2 if sealed else 0)
    assert store.prepare("next").id == 43
    assert {snapshot.key for snapshot in store.walk()} == {"job", "next"}


def test_locks_do_not_pass_to_a_forked_child(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    fd = leases.share(directory, 1)
    pid = os.fork()
    if pid == 0:
        os._exit(fd in leases.held())
    assert os.waitpid(pid, 0)[1] == 0
    assert leases.seize(directory, 1) is None
    leases.drop(fd)
    taken = leases.seize(directory, 1)
    assert taken is not None
    leases.forget(directory, 1, taken)
    assert os.listdir(tmp_path) == []
    os.close(directory)


def test_an_owner_is_dead_when_its_lock_is_free(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    token, fd = leases.take_owner(directory)
    assert not leases.is_dead(directory, token)
    assert leases.take_dead_owner(directory, token) is None
    leases.drop(fd)
    assert leases.is_dead(directory, token)
    taken = leases.take_dead_owner(directory, token)
    assert taken is not None
    assert not leases.is_dead(directory, token)
    leases.forget_owner(directory, token, taken)
    assert leases.is_dead(directory, token)
    os.close(directory)
