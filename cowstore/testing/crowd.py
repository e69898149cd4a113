"""Many hands on one store: processes and threads that race, die at random, and must leave it whole."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import sqlite3
import sys
import threading
import time
import traceback
from contextlib import closing, suppress

from cowstore.errors import AlreadyExists, Busy, CowstoreError, HasChildren, NotFound, WrongKind
from cowstore.testing import leaks
from cowstore.testing._expect import equal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cowstore.store import Store
    from cowstore.testing._case import Ground

HANGING_SECONDS = 300
"""Longer than anything takes on a slow machine: what is not done by then never will be."""

ORDINARY = (AlreadyExists, Busy, HasChildren, NotFound, WrongKind)
"""What a verb may say because somebody else was faster."""


def fork(work: Callable[[], object]) -> int:
    """Run *work* in a forked process, which ends with status 0 if it came to its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(2 * HANGING_SECONDS)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - the child ends here
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


def wait(pids: Sequence[int]) -> list[int]:
    """Wait for processes; returns their exit codes."""
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def one_verb(store: Store, chance: random.Random, *, keys: int = 12) -> str:
    """Do one random verb on keys that everybody uses, and return its name; losing a race is no error."""
    key, other = (f"k{chance.randrange(keys)}" for _ in range(2))
    verb = chance.choice(_VERBS)
    with suppress(*ORDINARY):
        _verb(store, verb, key, other, chance)
    return verb


_VERBS = (
    "prepare", "prepare", "child", "child", "view", "commit", "commit", "remove", "remove", "remove", "mounted",
    "mounted", "changes", "usage", "update", "walk", "stat", "mounts", "ephemeral", "status",
)  # fmt: skip


def _verb(store: Store, verb: str, key: str, other: str, chance: random.Random) -> None:
    match verb:
        case "prepare":
            store.prepare(key)
        case "child":
            store.prepare(key, other)
        case "ephemeral":
            store.prepare(key, other, ephemeral=True)
        case "view":
            store.view(key, other)
        case "commit":
            store.commit(other, key)
        case "remove":
            store.remove(key)
        case "mounted":
            with store.mounted(key) as root:
                names = sorted(os.listdir(root))
                if "mark" in names:
                    assert (root / "mark").read_bytes() == b"whole" * 1000, "a file is not what was written"
                with suppress(OSError):
                    # Read-only ones refuse; several writers of one snapshot write the same.
                    mine = root / f"new-{chance.randrange(1 << 30)}"
                    mine.write_bytes(b"whole" * 1000)
                    os.replace(mine, root / "mark")
        case "mounts":
            store.mounts(key)
            store.release(key)
        case "changes":
            list(store.changes(key))
        case "usage":
            assert store.usage(key).size_bytes >= 0
        case "update":
            store.update(key, {"by": str(os.getpid())})
        case "walk":
            for snapshot in store.walk():
                assert snapshot.key
        case "stat":
            store.stat(key)
        case "status":
            assert store.status().in_flight >= 0


def random_verbs(ground: Ground, *, processes: int, verbs: int, seed: int) -> None:
    """Let *processes* do *verbs* random verbs each; afterwards the store is clean and catalog and disk agree.

    :raises AssertionError: a verb failed by more than having lost a race, or the store is not clean.
    """
    ground.store.status()
    ground.shut()

    def work(number: int) -> None:
        chance = random.Random(seed * 1000 + number)  # noqa: S311 - the same choices each time
        with ground.factory.open(ground.root) as store:
            for _ in range(verbs):
                one_verb(store, chance)

    codes = wait([fork(lambda number=number: work(number)) for number in range(processes)])  # type: ignore[misc]
    equal(codes, [0] * processes, f"statuses with seed {seed}")
    settled(ground)


def settled(ground: Ground) -> None:
    """Assert that the store, opened again, is clean, with nothing in flight, and that every tree can be looked at."""
    store = ground.reopen()
    equal(store.check(), (), "findings")
    equal(store.status().in_flight, 0, "verbs under way")
    equal(leaks.mounts_below(ground.root), [], "mounts")
    for snapshot in list(store.walk()):
        with store.mounted(snapshot.key) as root:
            os.listdir(root)
    with closing(sqlite3.connect(os.path.join(ground.root, "catalog.db"))) as catalog:
        owners = catalog.execute("SELECT count(*) FROM snapshots WHERE owner IS NOT NULL").fetchone()[0]
    equal(owners, 0, "rows that name an owner")
    held = sorted(store._core.driver.held())  # noqa: SLF001 - the disk, asked without the catalog
    equal(
        held,
        sorted(snapshot.id for snapshot in store.walk() if snapshot.kind != "view"),
        "ids on disk and in the catalog",
    )


def killed_writers(ground: Ground, *, writers: int, seed: int, seconds: float = 0.4) -> None:
    """Let *writers* work on one store, each killed at a random time; the store is whole afterwards.

    :raises AssertionError: it is not.
    """
    ground.store.prepare("base-making")
    ground.store.commit("k0", "base-making")
    ground.shut()
    chance = random.Random(seed)  # noqa: S311 - the same choices each time

    def work(number: int) -> None:
        mine = random.Random(seed * 1000 + number)  # noqa: S311 - see above
        with ground.factory.open(ground.root) as store:
            while True:
                one_verb(store, mine)

    pids, deaths = [], []
    start = time.monotonic()
    for number in range(writers):
        pids.append(fork(lambda number=number: work(number)))  # type: ignore[misc]
        deaths.append((start + chance.uniform(0.05, seconds) + number * 0.02, pids[-1]))
        for when, pid in list(deaths):
            if when <= time.monotonic():
                os.kill(pid, signal.SIGKILL)
                deaths.remove((when, pid))
        # Not all at once: a killed one's traces are found by those that open the store after it.
        time.sleep(0.02)
    for when, pid in sorted(deaths):
        time.sleep(max(0.0, when - time.monotonic()))
        os.kill(pid, signal.SIGKILL)
    codes = wait(pids)
    wrong = [code for code in codes if code != -signal.SIGKILL]
    assert not wrong, f"writers ended by themselves, with {wrong} (seed {seed})"
    settled(ground)


PAIRS = (
    "prepare",
    "view",
    "commit",
    "remove",
    "mounted",
    "changes",
    "usage",
    "update",
    "walk",
    "import",
    "reopen",
    "check",
    "apply",
    "squash",
    "cleanup",
)
"""The verbs that are raced against each other, each pair of them."""


class Racers:
    """Two processes that race verbs, each on a store of its own, which it opens for each race.

    They are forked once: where a fork is dear, two for each of a hundred pairs are most of the work.
    """

    def __init__(self, ground: Ground) -> None:
        self._pids: list[int] = []
        self._lines: list[socket.socket] = []
        ground.shut()
        for _ in range(2):
            ours, theirs = socket.socketpair()
            self._pids.append(fork(lambda line=theirs: _obey(line, ground)))  # type: ignore[misc]
            theirs.close()
            self._lines.append(ours)

    def race(self, *verbs: str, turns: int) -> None:
        """Let each do its verb so many times, both beginning at once.

        :raises AssertionError: one of them failed; it has said how.
        """
        for line, verb in zip(self._lines, verbs, strict=True):
            line.sendall(f"{verb} {turns}".encode())
        said = [line.recv(16) for line in self._lines]
        if said == [b"ready", b"ready"]:
            for line in self._lines:
                line.sendall(b"go")
            said = [line.recv(16) for line in self._lines]
        equal(said, [b"done", b"done"], f"last words of {' against '.join(verbs)}")

    def close(self) -> None:
        """End the processes, whatever they do."""
        for line in self._lines:
            line.close()
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
        wait(self._pids)


def _obey(line: socket.socket, ground: Ground) -> None:
    while order := line.recv(64):
        signal.alarm(2 * HANGING_SECONDS)
        verb, turns = order.decode().split()
        with ground.factory.open(ground.root) as store:
            line.sendall(b"ready")
            line.recv(16)
            for turn in range(int(turns)):
                _racing(store, verb, turn)
        line.sendall(b"done")


def race(ground: Ground, first: str, second: str, *, racers: Racers | None = None, turns: int = 3) -> None:
    """Let two verbs run at once on the same keys, in two threads of one store or in two processes.

    :param racers: the processes; threads if None.
    :raises AssertionError: one of them fails by more than having lost, or the store is not clean.
    """
    store = ground.store
    store.prepare("making")
    store.commit("base", "making")
    store.prepare("active", "base")
    if racers is None:
        _race_threads(store, first, second, turns)
    else:
        ground.shut()
        racers.race(first, second, turns=turns)
    settled(ground)


def _race_threads(store: Store, first: str, second: str, turns: int) -> None:
    failures: list[BaseException] = []
    barrier = threading.Barrier(2)

    def run(verb: str) -> None:
        try:
            for turn in range(turns):
                barrier.wait(HANGING_SECONDS)
                _racing(store, verb, turn)
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            failures.append(error)
            barrier.abort()

    pair = [threading.Thread(target=run, args=(verb,)) for verb in (first, second)]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join(HANGING_SECONDS)
        assert not thread.is_alive(), f"{first} and {second} wait for each other for ever"
    if failures:
        raise AssertionError(f"{first} against {second}: {failures[0]!r}") from failures[0]


def _racing(store: Store, verb: str, turn: int) -> None:
    with suppress(*ORDINARY):
        match verb:
            case "prepare":
                store.prepare("active", "base")
            case "view":
                store.view("active", "base")
            case "commit":
                store.commit(f"layer-{turn}", "active")
            case "remove":
                store.remove("active")
            case "mounted":
                with store.mounted("active") as root:
                    (root / "file").write_text("x")
            case "changes":
                list(store.changes("active"))
            case "usage":
                store.usage("active")
            case "update":
                store.update("active", {"turn": str(turn)})
            case "walk":
                list(store.walk())
            case "import":
                store.import_directory("/etc/default", name="active")
            case "reopen":
                import cowstore

                cowstore.open(store.root, driver=store.driver_name).close()
            case "check":
                findings = store.check()
                assert not findings, f"check beside other verbs: {findings}"
            case "apply":
                archive = io.BytesIO()
                store.export_layer("base", archive)
                archive.seek(0)
                store.apply_layer("active", archive)
            case "squash":
                store.squash(f"flat-{turn}", "base")
                store.remove(f"flat-{turn}")
            case "cleanup":
                store.cleanup()
            case _:
                raise CowstoreError(f"no such verb: {verb}")
