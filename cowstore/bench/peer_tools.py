"""Peers that are single programs, and cowstore itself."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import sys
import time
from contextlib import closing

from cowstore.bench import synthetic
from cowstore.bench.installed import Installed, process
from cowstore.bench.peers import command, peer, said
from cowstore.bench.workloads import flush
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from cowstore.bench.peers import Place, Steps


@peer("cowstore (library)")
def library(place: Place, stack: ExitStack) -> Steps:
    """In this process, as a program uses it."""
    import cowstore

    path = os.path.join(place.directory("library"), "store")
    store = stack.enter_context(cowstore.open(path, driver="overlay"))
    store.import_directory(place.root, name="mini")
    store.import_tar(place.tree_tar, name="tree")
    store.prepare("edited", "tree")
    with store.mounted("edited") as root:
        synthetic.edit(str(root), place.recipe, 10)
    numbers = itertools.count()

    def snapshot() -> None:
        store.prepare("job", "mini")
        store.remove("job")

    def mount() -> None:
        store.prepare("job", "mini", ephemeral=True)
        with store.mounted("job"):
            pass
        store.remove("job")

    def start() -> None:
        if cowstore.run(store, parent="mini", argv=["true"]).status:
            raise CowstoreError("true failed")

    return {
        "snapshot": snapshot,
        "mount": mount,
        "apply": lambda: void(store.import_tar(place.tree_tar, name=f"applied-{next(numbers)}")),
        "diff": lambda: void(store.export_layer("edited", io.BytesIO())),
        "start": start,
    }


def void(_value: object) -> None:
    """Take a value, so that a step returns nothing."""


@peer("cowstore (command)")
def commands(place: Place, _stack: ExitStack) -> Steps:
    """The two commands, as processes."""
    one = Installed(sys.executable, place.directory("installed"))
    path = os.path.join(place.directory("commands"), "store")
    own = [one.python, "-m", "cowstore.cli.main", "--store", path]

    def cowstore(*words: str) -> None:
        process([*own, *words], one.environment)

    cowstore("--driver", "overlay", "import", place.root, "--name", "mini")
    cowstore("import", place.tree_tar, "--name", "tree")
    cowstore("prepare", "edited", "tree")
    point = place.directory("point")
    cowstore("mount", "edited", point)
    synthetic.edit(point, place.recipe, 10)
    cowstore("umount", point)
    numbers = itertools.count()

    def snapshot() -> None:
        cowstore("prepare", "job", "mini")
        cowstore("rm", "job")

    def mount() -> None:
        cowstore("prepare", "job", "mini")
        cowstore("mount", "job", point)
        cowstore("umount", point)
        cowstore("rm", "job")

    line = one.run_command("--store", path, "--base", "mini", "--", "true")
    return {
        "snapshot": snapshot,
        "mount": mount,
        "apply": lambda: cowstore("import", place.tree_tar, "--name", f"applied-{next(numbers)}"),
        "diff": lambda: cowstore("diff", "edited", "--output", os.path.join(point, "..", "layer.tar")),
        "start": lambda: process(line, one.environment),
    }


@peer("GNU tar", "archives only: it has no snapshots and runs nothing", tar="tar")
def gnu_tar(place: Place, _stack: ExitStack) -> Steps:
    """Archives alone; what changed, by the list of files that the last archive left."""
    tree, listed = place.directory("edited"), os.path.join(place.directory("listed"), "listed")
    process(["tar", "-C", tree, "-xpf", place.tree_tar], os.environ)
    process(["tar", "-C", tree, f"--listed-incremental={listed}", "-cf", f"{listed}.tar", "."], os.environ)
    synthetic.edit(tree, place.recipe, 10)

    def diff() -> float:
        shutil.copyfile(listed, f"{listed}.again")
        started = time.perf_counter()
        line = [f"--listed-incremental={listed}.again", "--xattrs", "-cf", f"{listed}.diff.tar", "."]
        process(["tar", "-C", tree, *line], os.environ)
        return time.perf_counter() - started

    return {**_archiver(place, "tar", ["--xattrs", "--xattrs-include=*"]), "diff": diff}


@peer("bsdtar", "archives only: it has no snapshots, runs nothing, and writes whole trees", bsdtar="libarchive-tools")
def bsdtar(place: Place, _stack: ExitStack) -> Steps:
    """Archives alone."""
    return _archiver(place, "bsdtar", [])


def _archiver(place: Place, program: str, options: list[str]) -> Steps:
    def apply() -> float:
        target = place.directory("untar")
        started = time.perf_counter()
        process([program, "-C", target, *options, "-xpf", place.tree_tar], os.environ)
        flush(target)
        return time.perf_counter() - started

    return {"apply": apply}


@peer("bwrap", "a sandbox: it has neither snapshots nor layers", bwrap="bubblewrap")
def bwrap(place: Place, _stack: ExitStack) -> Steps:
    """A sandbox on the root itself: it has no snapshots."""
    line = ["bwrap", "--bind", place.root, "/", "--unshare-all", "--proc", "/proc", "--dev", "/dev", "true"]
    return {"start": command(*line)}


def _bundle(place: Place, program: str) -> Callable[[], None]:
    bundle = place.directory("bundle")
    shutil.copytree(place.root, os.path.join(bundle, "rootfs"), symlinks=True)
    config = os.path.join(bundle, "config.json")
    process(["sh", "-c", f'cd "{bundle}" && {program} spec'], os.environ)
    with open(config, encoding="utf-8") as file:
        spec = json.load(file)
    spec["process"].update(args=["true"], terminal=False)
    spec["process"].pop("rlimits", None)
    with open(config, "w", encoding="utf-8") as file:
        json.dump(spec, file)
    state = place.directory("state")
    numbers = itertools.count()
    return lambda: process(
        [program, "--root", state, "run", "--bundle", bundle, f"bench-{os.getpid()}-{next(numbers)}"], os.environ
    )


@peer("crun", "a runtime: it has neither snapshots nor layers", crun="crun")
def crun(place: Place, _stack: ExitStack) -> Steps:
    """An OCI runtime on a bundle: it has no snapshots."""
    return {"start": _bundle(place, "crun")}


@peer("runc", "a runtime: it has neither snapshots nor layers", runc="runc")
def runc(place: Place, _stack: ExitStack) -> Steps:
    """An OCI runtime on a bundle: it has no snapshots."""
    return {"start": _bundle(place, "runc")}


@peer("umoci", "it unpacks images to directories: it has no snapshots and runs nothing", umoci="umoci")
def umoci(place: Place, _stack: ExitStack) -> Steps:
    """Images unpacked to directories and packed again, whole."""
    import cowstore

    layout = os.path.join(place.directory("layout"), "tree")
    with cowstore.open(os.path.join(place.directory("maker"), "store"), driver="overlay", volatile=True) as store:
        store.import_tar(place.tree_tar, name="tree")
        store.export_image("tree", layout, ref="tree")
    edited = os.path.join(place.directory("bundle"), "bundle")
    process(["umoci", "unpack", "--image", f"{layout}:tree", edited], os.environ)
    synthetic.edit(os.path.join(edited, "rootfs"), place.recipe, 10)
    numbers = itertools.count()

    def apply() -> float:
        target = os.path.join(place.directory("unpacked"), "bundle")
        started = time.perf_counter()
        process(["umoci", "unpack", "--image", f"{layout}:tree", target], os.environ)
        flush(target)
        return time.perf_counter() - started

    return {
        "apply": apply,
        "diff": lambda: process(["umoci", "repack", "--image", f"{layout}:new-{next(numbers)}", edited], os.environ),
    }


@peer("btrfs-progs", "subvolumes only: nothing to mount, no OCI layers, runs nothing", btrfs="btrfs-progs")
def btrfs(place: Place, stack: ExitStack) -> Steps:
    """Subvolumes by the command."""
    point = place.outer.file_system("btrfs", 512 << 20, "btrfs")
    stack.callback(place.outer.drop, point)
    said("btrfs", "subvolume", "create", f"{point}/base")
    shutil.copytree(place.root, f"{point}/base", symlinks=True, dirs_exist_ok=True)

    def snapshot() -> None:
        process(["btrfs", "subvolume", "snapshot", f"{point}/base", f"{point}/child"], os.environ)
        process(["btrfs", "subvolume", "delete", f"{point}/child"], os.environ)

    return {"snapshot": snapshot}


@peer("dmsetup", "devices only: it has no layers and runs nothing", dmsetup="dmsetup")
def dmsetup(place: Place, stack: ExitStack) -> Steps:
    """Thin snapshots of an ext4 in a pool of its own, by the command, as its manual page has it.

    Source: dmsetup(8); Documentation/admin-guide/device-mapper/thin-provisioning.rst.
    """
    from cowstore._linux import loop
    from cowstore._linux.fd import open_

    said("dmsetup", "version")
    home, name, sectors = place.directory("dmsetup"), f"cowstore-bench-{os.getpid()}", _POOL_BYTES // 512
    devices = []
    for part, size in (("metadata", 16 << 20), ("data", _POOL_BYTES)):
        with open_(f"{home}/{part}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600) as file:
            os.ftruncate(file.fileno(), size)
            devices.append(stack.enter_context(closing(loop.attach(file))).node)
    pool, base, child = f"{name}-pool", f"{name}-base", f"{name}-child"

    def table(device: str, line: str) -> None:
        process(["dmsetup", "create", device, "--table", f"0 {sectors} {line}"], os.environ)

    def message(text: str) -> None:
        process(["dmsetup", "message", f"/dev/mapper/{pool}", "0", text], os.environ)

    def remove(device: str) -> None:
        process(["dmsetup", "remove", "--retry", device], os.environ)

    table(pool, f"thin-pool {devices[0]} {devices[1]} 128 0 1 skip_block_zeroing")
    stack.callback(remove, pool)
    message("create_thin 0")
    table(base, f"thin /dev/mapper/{pool} 0")
    try:
        process(["mke2fs", "-q", "-t", "ext4", "-E", "nodiscard", f"/dev/mapper/{base}"], os.environ)
    finally:
        remove(base)
    point = place.directory("point")

    def snapshot() -> None:
        message("create_snap 1 0")
        message("delete 1")

    def mount() -> None:
        message("create_snap 1 0")
        table(child, f"thin /dev/mapper/{pool} 1")
        try:
            process(["mount", f"/dev/mapper/{child}", point], os.environ)
            process(["umount", point], os.environ)
        finally:
            remove(child)
            message("delete 1")

    return {"snapshot": snapshot, "mount": mount}


_POOL_BYTES = 256 << 20
