"""Many hands on one store."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cowstore.errors import AlreadyExists, Busy, NotFound
from cowstore.testing import Editor, Factory, Ground, crowd

if TYPE_CHECKING:
    from collections.abc import Iterator

HANGING_SECONDS = 300
"""Longer than anything takes on a slow machine: what is not done by then never will be."""

SEEDS = int(os.environ.get("COWSTORE_CROWD_SEEDS", "20"))
"""Environment variable: how many crowds there are; the kernel tier has time for fewer."""

PAIRS = list(itertools.combinations_with_replacement(crowd.PAIRS, 2))


@pytest.fixture
def ground(factory: Factory) -> Iterator[Ground]:
    made = Ground(factory, "crowd")
    try:
        yield made
    finally:
        made.abandon()
        made.discard()


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "processes"])
def test_every_pair_of_verbs(ground: Ground, threads: bool) -> None:
    """Two threads of one store, or two processes, race each pair of verbs on the same keys."""
    racers = None if threads else crowd.Racers(ground)
    try:
        for first, second in PAIRS:
            try:
                crowd.race(ground, first, second, racers=racers)
                # One store for all of them: making a new one each time is most of the work where it has a pool.
                ground.empty()
            except BaseException as error:
                error.add_note(f"{first} against {second}")
                raise
    finally:
        if racers is not None:
            racers.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_eight_processes(ground: Ground, seed: int) -> None:
    """8 processes x 100 random verbs: check is clean, and the catalog equals the disk."""
    crowd.random_verbs(ground, processes=8, verbs=100, seed=seed)


@pytest.mark.slow
def test_forty_writers_killed_at_random(ground: Ground) -> None:
    """40 writers on one store, each killed at a random time: reopened, clean, nothing mounted."""
    crowd.killed_writers(ground, writers=40, seed=7)


def test_threads_on_one_store(ground: Ground) -> None:
    """ST-06: 8 threads of one process make and remove layers on one store, another handle beside them is closed."""
    store = ground.store
    other = ground.factory.open(ground.root)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(12):
                key = f"t{number}-{turn}"
                store.prepare(key)
                with store.mounted(key) as root:
                    (root / "file").write_text(key)
                store.commit(f"{key}-layer", key)
                with store.mounted(f"{key}-layer") as root:
                    assert (root / "file").read_text() == key
                if turn % 2:
                    store.remove(f"{key}-layer")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    other.prepare("beside")
    other.close()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert len(ground.listed()) == 8 * 6 + 1
    crowd.settled(ground)


def test_same_key_once(ground: Ground) -> None:
    """Of many that prepare one key at once, exactly one wins; of many that remove it, too."""
    store = ground.store
    for _ in range(5):
        won, lost = _at_once(8, lambda: store.prepare("key"), AlreadyExists)
        assert (won, lost) == (1, 7)
        won, lost = _at_once(8, lambda: store.remove("key"), NotFound, Busy)
        assert (won, lost) == (1, 7)


def _at_once(count: int, verb: object, *ordinary: type[Exception]) -> tuple[int, int]:
    assert callable(verb)
    results: list[bool] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        try:
            barrier.wait(HANGING_SECONDS)
            verb()
            results.append(True)
        except ordinary:
            results.append(False)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return sum(results), len(results) - sum(results)


def test_readers_during_a_long_import(ground: Ground) -> None:
    """Readers, and writers of other keys, never wait for an import; it is listed only when it is whole (ST-01)."""
    source = ground.scratch("source")
    tree = Editor(source)
    for number in range(60):
        tree.mkdir(f"d{number}")
        for inner in range(40):
            with open(tree.at(f"d{number}/{inner}"), "wb") as file:
                file.write(b"x" * 4000)
    ground.store.prepare("there")
    ground.shut()
    importer = crowd.fork(lambda: _import(ground, source))
    longest, seen, start = 0.0, False, time.monotonic()
    store = ground.store
    while True:
        began = time.monotonic()
        found = {snapshot.key: str(snapshot.kind) for snapshot in store.walk()}
        store.stat("there")
        store.update("there", {"at": str(began)})
        longest = max(longest, time.monotonic() - began)
        assert set(found) <= {"there", "imported"}, found
        if found.get("imported") == "committed":
            seen = True
            break
        try:
            store.prepare("child", "imported")
        except NotFound:
            pass
        else:
            # Between the listing and this it was finished.
            store.remove("child")
        assert time.monotonic() - start < HANGING_SECONDS, "the import never ends"
    assert crowd.wait([importer]) == [0]
    took = time.monotonic() - start
    assert seen
    assert longest < max(0.5, took / 2), f"a reader waited {longest:.3f} s for an import of {took:.3f} s"
    ground.look("imported", source)
    crowd.settled(ground)


def _import(ground: Ground, source: str) -> None:
    with ground.factory.open(ground.root) as store:
        store.import_directory(source, name="imported")


def test_killed_in_import(ground: Ground) -> None:
    """ST-01: killed at random within an import, again and again; the half layer never shows, the last one is whole."""
    import random
    import signal

    source = ground.scratch("source")
    tree = Editor(source)
    for number in range(200):
        tree.write(f"file-{number:03}", f"{number}" * 500)
    ground.store.status()
    ground.shut()
    chance = random.Random(3)
    for _ in range(12):
        pid = crowd.fork(lambda: _import(ground, source))
        time.sleep(chance.uniform(0.0, 0.12))
        os.kill(pid, signal.SIGKILL)
        crowd.wait([pid])
        found = {snapshot.key: snapshot for snapshot in ground.reopen().walk()}
        if "imported" in found:
            ground.look("imported", source)
            ground.store.remove("imported")
        else:
            assert not found
        ground.clean()
        ground.shut()
    ground.store.import_directory(source, name="imported")
    ground.look("imported", source)
