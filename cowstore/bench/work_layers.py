"""Workloads about what changed: the list of changes, layers out and in, commit, usage, removal."""

from __future__ import annotations

import io
import os

from cowstore.bench.synthetic import Recipe, edit
from cowstore.bench.workloads import Plan, check, check_gone, flush, workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.bench.grounds import Ground
    from cowstore.bench.timing import Stopwatch


@workload(
    "changes",
    "10 edits, and edits of half of the files, over a large tree: listed, written as a layer, applied to a sibling",
    "writing goes to memory, applying ends with the unmount; commit ends with the store's own sync",
)
def changes(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    store, files = ground.store, plan.tree_files
    base = ground.tree(files, plan.seed)
    for count in (10, files // 2):
        where = f"edits={count};files={files}"
        key = ground.key("edited")
        store.prepare(key, base)
        with store.mounted(key) as root:
            edit(str(root), Recipe(files, seed=plan.seed), count)
            flush(root)
        with watch.phase(f"list|{where}"):
            found = list(store.changes(key))
        touched = [change for change in found if "/file-" in change.path]
        check(len(touched) >= count, f"{len(touched)} changes of {count} edits")
        with watch.phase(f"usage|{where}"):
            usage = store.usage(key)
        check(usage.size_bytes > 0, "a usage")
        layer = io.BytesIO()
        with watch.phase(f"export|{where}"):
            store.export_layer(key, layer)
        copy = ground.key("applied")
        store.prepare(copy, base)
        layer.seek(0)
        with watch.phase(f"apply|{where}"):
            store.apply_layer(copy, layer)
        check([(one.kind, one.path) for one in store.changes(copy)] == [(one.kind, one.path) for one in found], "apply")
        store.remove(copy)
        with watch.phase(f"commit|{where}"):
            store.commit(f"{key}-done", key)
        with watch.phase(f"remove|{where}"):
            store.remove(f"{key}-done", wait=True)
        check_gone(store, f"{key}-done")


@workload(
    "import",
    "a root file system's archive made into a committed snapshot, and removed",
    "import ends with the store's own sync",
)
def import_(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    import subprocess

    from cowstore.bench.synthetic import grow

    archive = os.path.join(ground.path, "tree.tar")
    if not os.path.exists(archive):
        tree = os.path.join(ground.path, "tree")
        os.mkdir(tree)
        grow(tree, Recipe(plan.tree_files, seed=plan.seed))
        subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True, timeout=600)
    key = ground.key("imported")
    with watch.phase(f"import|files={plan.tree_files}"):
        ground.store.import_tar(archive, name=key)
    files = sum("/file-" in change.path for change in ground.store.changes(key))
    check(files >= plan.tree_files, f"{files} files imported")
    with watch.phase(f"remove|files={plan.tree_files}"):
        ground.store.remove(key, wait=True)
    check_gone(ground.store, key)
