"""Workloads on the files of one mounted snapshot."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import random
import shutil
from contextlib import ExitStack

from cowstore.bench import machine
from cowstore.bench.synthetic import Recipe
from cowstore.bench.workloads import Plan, check, flush, fsynced, workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.bench.grounds import Ground
    from cowstore.bench.timing import Stopwatch

_MIB = 1 << 20


def _big(ground: Ground, plan: Plan) -> str:
    def fill(root: str) -> None:
        chance = random.Random(plan.seed)  # noqa: S311  # the same content for every driver
        with open(os.path.join(root, "big"), "wb") as file:
            file.writelines(chance.randbytes(_MIB) for _ in range(plan.big_bytes // _MIB))

    return ground.base("big", fill)


@workload(
    "first-write", "the first 4 KiB written into a large file of the parent, and the second", "each ends with fsync(2)"
)
def first_write(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    base, key = _big(ground, plan), ground.key("first-write")
    size = plan.big_bytes // _MIB
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        path = str(root / "big")
        before = _used(ground.path)
        with watch.phase(f"first|MiB={size}"):
            fsynced(path, b"x" * 4096, at=plan.big_bytes // 2)
        flush(root)
        watch.add(f"bytes taken per byte changed|MiB={size}", max(0, _used(ground.path) - before) / 4096)
        with watch.phase(f"second|MiB={size}"):
            fsynced(path, b"y" * 4096, at=plan.big_bytes // 4)
        with open(path, "rb") as file:
            file.seek(plan.big_bytes // 2)
            check(file.read(4096) == b"x" * 4096, "the bytes written")
        check(os.stat(path).st_size == plan.big_bytes, "the file's size")
    ground.store.remove(key)


def _used(path: str) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@workload(
    "space",
    "4 KiB changed in each of 50 files of 256 KiB: bytes on disk for each byte changed",
    "synced before it is looked",
)
def space(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    def fill(root: str) -> None:
        for number in range(50):
            with open(os.path.join(root, f"file-{number}"), "wb") as file:
                file.write(random.Random(number).randbytes(1 << 18))  # noqa: S311  # the same for every driver

    base, key = ground.base("space", fill), ground.key("space")
    flush(ground.path)
    before = _used(ground.path)
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        for number in range(50):
            fsynced(str(root / f"file-{number}"), b"z" * 4096, at=1 << 17)
        flush(root)
    flush(ground.path)
    watch.add("bytes taken per byte changed", max(0, _used(ground.path) - before) / (50 * 4096))
    with ground.store.mounted(key) as root:
        for number in range(50):
            was = random.Random(number).randbytes(1 << 18)  # noqa: S311  # the same for every driver
            now = was[: 1 << 17] + b"z" * 4096 + was[(1 << 17) + 4096 :]
            check((root / f"file-{number}").read_bytes() == now, "what was changed, and what was not")
    ground.store.remove(key)
    del plan


@workload(
    "small-files", "a storm of files of 1 KiB made in a fresh snapshot, and removed", "making ends with syncfs(2)"
)
def small_files(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    base, key = ground.tree(plan.tree_files, plan.seed), ground.key("storm")
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        top = str(root / "storm")
        with watch.phase(f"make|files={plan.storm_files}"):
            os.mkdir(top)
            for number in range(plan.storm_files):
                if number % 100 == 0:
                    os.mkdir(f"{top}/{number // 100}")
                with open(f"{top}/{number // 100}/{number}", "wb") as file:
                    file.write(b"x" * 1024)
            flush(root)
        check(sum(len(files) for _, _, files in os.walk(top)) == plan.storm_files, "all files")
        with watch.phase(f"remove|files={plan.storm_files}"):
            shutil.rmtree(top)
        check(not os.path.exists(top), "no file")
    ground.store.remove(key)


@workload("remove-tree", "rm -rf of a whole tree that comes from the parent", "ends with syncfs(2)")
def remove_tree(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    base, key = ground.tree(plan.tree_files, plan.seed), ground.key("removal")
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        with watch.phase(f"rm -rf|files={plan.tree_files}"):
            shutil.rmtree(root / "usr")
            flush(root)
        check(not (root / "usr").exists(), "the tree is gone")
    ground.store.remove(key)


@workload("walk", "readdir and stat of a whole merged tree after edits, and all of it read", "nothing is written")
def walk(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    from cowstore.bench.synthetic import edit

    base, key = ground.tree(plan.tree_files, plan.seed), ground.key("walk")
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        edit(str(root), Recipe(plan.tree_files, seed=plan.seed), 100)
        flush(root)
    with ground.store.mounted(key) as root:
        # Where children do not share the page cache, the first to read pays.
        with watch.phase(f"read all, first time in this child|files={plan.tree_files}"):
            _read_all(str(root))
        with watch.phase(f"readdir and stat, warm|files={plan.tree_files}"):
            seen = _visit(str(root))
        check(seen >= plan.tree_files, f"{seen} entries seen")
        with watch.phase(f"read all, warm|files={plan.tree_files}"):
            _read_all(str(root))
        if plan.cold and machine.drop_caches():
            with watch.phase(f"readdir and stat, cold|files={plan.tree_files}"):
                _visit(str(root))
            machine.drop_caches()
            with watch.phase(f"read all, cold|files={plan.tree_files}"):
                _read_all(str(root))
    ground.store.remove(key)


def _entries(top: str) -> Iterator[os.DirEntry[str]]:
    waiting = [top]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _visit(top: str) -> int:
    return sum(entry.stat(follow_symlinks=False).st_nlink > 0 for entry in _entries(top))


def _read_all(top: str) -> None:
    for entry in _entries(top):
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, "rb", buffering=0) as file:
                while file.read(1 << 17):
                    pass


@workload(
    "overwrite",
    "4 KiB at random places of a large file of the parent, after its first write",
    "each ends with fsync(2)",
)
def overwrite(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    base, key = _big(ground, plan), ground.key("overwrite")
    chance = random.Random(plan.seed)  # noqa: S311  # the same places for every driver
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        fd = os.open(root / "big", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(fd, b"0", 0)
            os.fsync(fd)
            place = 0
            for _ in range(plan.overwrites):
                place = chance.randrange(plan.big_bytes // 4096) * 4096
                with watch.phase("write and fsync"):
                    os.pwrite(fd, b"w" * 4096, place)
                    os.fsync(fd)
            check(os.pread(fd, 4096, place) == b"w" * 4096, "the last bytes written")
        finally:
            os.close(fd)
    ground.store.remove(key)


@workload(
    "page-cache",
    "a file of 16 MiB read in several children one after another: how much of it the cache has for each already",
    "nothing is written",
)
def page_cache(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    def fill(root: str) -> None:
        with open(os.path.join(root, "library"), "wb") as file:
            file.writelines(os.urandom(_MIB) for _ in range(16))

    base = ground.base("library", fill)
    keys = [ground.key("reader") for _ in range(plan.readers)]
    for key in keys:
        ground.store.prepare(key, base)
    with ExitStack() as stack:
        files = [str(stack.enter_context(ground.store.mounted(key)) / "library") for key in keys]
        for path in files:
            _forget(path)
        shares, contents = [], set()
        for path in files:
            shares.append(_resident(path))
            with open(path, "rb", buffering=0) as file:
                contents.add(hashlib.file_digest(file, "sha256").digest())
        check(len(contents) == 1, "every child reads the same")
        watch.add(f"{SHARE}|readers={plan.readers}", sum(shares[1:]) / (len(files) - 1))
        watch.add(f"{CACHED}|readers={plan.readers}", _MIB * 16 * sum(1 - share for share in shares))
    for key in keys:
        ground.store.remove(key)


SHARE = "share of a later reader's file that is cached already"
CACHED = "memory that the readers' caches take together"


def _forget(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _resident(path: str) -> float:
    """Return the share of a file's pages that are in the page cache. Source: mincore(2)."""
    from cowstore._linux._call import bind

    mincore = bind("mincore", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    size = os.stat(path).st_size
    pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    answer = (ctypes.c_ubyte * pages)()
    # A private map shows the file's own pages until one is written to, and only it tells its address.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as view:
        window = ctypes.c_char.from_buffer(view)
        failed = mincore(ctypes.addressof(window), size, answer)
        del window
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return sum(one & 1 for one in answer) / pages
