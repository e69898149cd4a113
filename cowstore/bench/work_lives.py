"""Workloads about the life of snapshots: many layers, depth, parallel ones, durability."""

from __future__ import annotations

import os
import random
import threading

from cowstore.bench.workloads import Plan, check, check_gone, flush, fsynced, workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.bench.grounds import Ground
    from cowstore.bench.timing import Stopwatch

_LAYERS, _OPERATIONS, _FILE = 16, 10, 1 << 20


@workload(
    "containerd-layers",
    "16 layers of 10 operations on files of 1 MiB each, as containerd measures its own snapshotters",
    "write ends with the unmount, unsynced as there; commit with the store's own sync",
)
def containerd_layers(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    chance = random.Random(plan.seed)  # noqa: S311  # the same operations for every driver
    store, parent, made = ground.store, None, []
    present: list[str] = []
    block = chance.randbytes(_FILE)
    for layer in range(_LAYERS):
        key = ground.key("layer")
        with watch.phase("prepare"):
            store.prepare(key, parent)
        with watch.phase("write"), store.mounted(key) as root:
            for number in range(_OPERATIONS):
                turn = number % 3 if layer % 3 == 0 and present else 2
                _operate(str(root), turn, f"file-{layer}-{number}", present, block, chance)
        with watch.phase("commit"):
            parent = store.commit(f"{key}-done", key).key
        made.append(parent)
    assert parent is not None
    view = ground.key("view")
    store.view(view, parent)
    with store.mounted(view) as root:
        check(sorted(os.listdir(root)) == sorted(present), "the files of 16 layers")
    store.remove(view)
    for key in reversed(made):
        with watch.phase("remove"):
            store.remove(key)
    check_gone(store, *made)


def _operate(root: str, turn: int, name: str, present: list[str], block: bytes, chance: random.Random) -> None:
    if turn == 0:
        fd = os.open(os.path.join(root, chance.choice(present)), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, b"some", _FILE // 2)
        finally:
            os.close(fd)
    elif turn == 1:
        gone = present.pop(chance.randrange(len(present)))
        os.unlink(os.path.join(root, gone))
    else:
        with open(os.path.join(root, name), "wb") as file:
            file.write(block)
        present.append(name)


@workload("life", "one throw-away snapshot of a whole tree: prepare, mount, unmount, remove", "unsynced")
def life(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    base, store = ground.tree(plan.tree_files, plan.seed), ground.store
    for _ in range(5):
        key = ground.key("life")
        with watch.phase("prepare"):
            store.prepare(key, base, ephemeral=True)
        mounted = store.mounted(key)
        with watch.phase("mount"):
            root = mounted.__enter__()
        try:
            check(os.listdir(root) == ["usr"], "the tree")
        finally:
            with watch.phase("unmount"):
                mounted.__exit__(None, None, None)
        with watch.phase("remove"):
            store.remove(key)
        check_gone(store, key)


@workload("depth", "a snapshot over a chain of layers of one small file each", "unsynced but for what the store syncs")
def depth(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    store = ground.store
    limit = store.capabilities.max_depth
    for layers in plan.depths:
        if limit is not None and layers > limit - 1:
            continue
        top = _chain(ground, layers)
        key = ground.key("deep")
        with watch.phase(f"prepare|depth={layers}"):
            store.prepare(key, top)
        mounted = store.mounted(key)
        with watch.phase(f"mount|depth={layers}"):
            root = mounted.__enter__()
        try:
            with watch.phase(f"read the lowest|depth={layers}"), open(root / "file-0", "rb") as file:
                content = file.read()
            check(content == b"layer 0\n", "the lowest layer's file")
            check(len(os.listdir(root)) == layers, "one file of each layer")
        finally:
            with watch.phase(f"unmount|depth={layers}"):
                mounted.__exit__(None, None, None)
        with watch.phase(f"remove|depth={layers}"):
            store.remove(key)


def _chain(ground: Ground, layers: int) -> str:
    """Return the top of a chain, which grows by what is missing."""
    store = ground.store
    parent = None
    for number in range(layers):
        top = f"chain-{number}"
        if not _is_there(ground, top):
            draft = ground.key("draft")
            store.prepare(draft, parent)
            with store.mounted(draft) as root:
                (root / f"file-{number}").write_text(f"layer {number}\n")
            store.commit(top, draft)
        parent = top
    assert parent is not None
    return parent


def _is_there(ground: Ground, key: str) -> bool:
    from cowstore.errors import NotFound

    try:
        ground.store.stat(key)
    except NotFound:
        return False
    return True


@workload(
    "parallel",
    "so many throw-away snapshots at once, each prepared, mounted, written to, unmounted and removed by a thread",
    "unsynced; the figure is the time until the last is done",
)
def parallel(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    base = ground.tree(plan.tree_files, plan.seed)
    store = ground.store
    for number in plan.parallel:
        keys = [ground.key("one-of-many") for _ in range(number)]
        wrong: list[BaseException] = []

        def live(key: str, wrong: list[BaseException] = wrong) -> None:
            try:
                store.prepare(key, base, ephemeral=True)
                with store.mounted(key) as root:
                    for part in range(10):
                        (root / f"new-{part}").write_bytes(b"x" * 4096)
                store.remove(key)
            except BaseException as error:  # noqa: BLE001  # told by the thread that waits
                wrong.append(error)

        threads = [threading.Thread(target=live, args=(key,)) for key in keys]
        with watch.phase(f"all|snapshots={number}"):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if wrong:
            raise wrong[0]
        check(not [found for found in store.walk() if found.key in keys], "all have gone")


@workload(
    "durable", "commit of 1 MiB in 16 files, in a store that is durable and in one that is not", "as the names say"
)
def durable(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    for word, store in (("durable", ground.store), ("volatile", ground.volatile)):
        key = ground.key(word)
        store.prepare(key)
        with store.mounted(key) as root:
            for number in range(16):
                (root / f"file-{number}").write_bytes(os.urandom(1 << 16))
        with watch.phase(f"commit, {word}"):
            store.commit(f"{key}-done", key)
        check(sum(change.kind == "added" for change in store.changes(f"{key}-done")) == 16, "16 files committed")
        with watch.phase(f"remove, {word}"):
            store.remove(f"{key}-done")
        check_gone(store, f"{key}-done")
    del plan


@workload("fsync", "one small file written and synced in a mounted snapshot", "each write ends with fsync(2)")
def fsync(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    for word, ephemeral in (("kept", False), ("throw-away", True)):
        key = ground.key("fsync")
        ground.store.prepare(key, ground.empty(), ephemeral=ephemeral)
        with ground.store.mounted(key) as root:
            flush(root)
            for number in range(10):
                with watch.phase(f"write and fsync, {word}"):
                    fsynced(str(root / f"file-{number}"), b"x" * 4096, create=True)
            check(all((root / f"file-{one}").read_bytes() == b"x" * 4096 for one in range(10)), "what was written")
        ground.store.remove(key)
    del plan
