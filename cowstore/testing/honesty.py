"""Each capability a driver claims is tried, and so is each it does not claim: a flag that lies fails here."""

from __future__ import annotations

import dataclasses
import functools
import os
import time

from cowstore._linux.procfs import ACCOUNTS, accounts
from cowstore.errors import Busy, Unsupported
from cowstore.model import Capabilities
from cowstore.testing._case import Ground, NotApplicable, case
from cowstore.testing._expect import counted, equal, refused
from cowstore.testing.edits import Editor

PROVEN_BY = {
    "max_depth": "depth.limit_is_honest",
    "size_limits": "graph.quota",
    "shares_page_cache": "honesty.page_cache",
    "directory_rename": "snapshots.rename",
    "adopts": "honesty.adopts",
    "volatile_mounts": "honesty.volatile_mounts",
    "instant_create": "honesty.instant_create",
    "rootless": "honesty.rootless",
    "inode_usage": "honesty.inode_usage",
    "kernel_changes": "honesty.kernel_changes",
    "shared_writing": "honesty.shared_writing",
    "exact_times": "honesty.exact_times",
    "xattr_removal": "honesty.xattr_removal",
}
"""The case that fails when a flag lies."""


@case("beyond (11)")
def every_flag_has_a_case(ground: Ground) -> None:
    """The table of flags and their cases is complete, and the driver's flags are a frozen value."""
    capabilities = ground.store.status().capabilities
    assert isinstance(capabilities, Capabilities), f"capabilities are {type(capabilities)}"
    missing = {field.name for field in dataclasses.fields(Capabilities)} - PROVEN_BY.keys()
    assert not missing, f"flags without a case: {missing}"
    equal(ground.store.capabilities, capabilities, "the two ways to ask")
    refused(dataclasses.FrozenInstanceError, lambda: setattr(capabilities, "adopts", True))


@case("beyond (11): adopts")
def adopts(ground: Ground) -> None:
    """A directory outside can be adopted exactly if the driver claims it; a refusal makes nothing."""
    source = ground.scratch("outside")
    Editor(source).write("file", "outside")
    if ground.store.status().capabilities.adopts:
        ground.store.adopt("adopted", source)
        ground.same("adopted", source)
    else:
        refused(Unsupported, lambda: ground.store.adopt("adopted", source))
        equal(ground.listed(), set(), "keys")


@case("beyond (11): instant_create", slow=True)
def instant_create(ground: Ground) -> None:
    """A child of a large parent is made as fast as one of a small parent, if the driver claims it."""
    if not ground.reopen(volatile=True).status().capabilities.instant_create:
        return
    sources = {"small": ground.scratch("small"), "large": ground.scratch("large")}
    Editor(sources["small"]).write("file", "x")
    tree = Editor(sources["large"])
    for number in range(20):
        tree.mkdir(f"dir-{number}")
        for inner in range(50):
            with open(tree.at(f"dir-{number}/{inner}"), "wb") as file:
                file.write(b"x" * 5000)
    for name, source in sources.items():
        ground.store.import_directory(source, name=name)
    best = dict.fromkeys(sources, float("inf"))
    # In turns, and until it shows: others may use the machine. A copy of 1 000 files takes tens of milliseconds.
    for _ in range(30):
        for name in sources:
            start = time.monotonic()
            ground.store.prepare("child", name)
            best[name] = min(best[name], time.monotonic() - start)
            ground.store.remove("child")
        if best["large"] < 3 * best["small"] + 0.01:
            return
    raise AssertionError(f"seconds for a child: {best}")


@case("beyond (11): shares_page_cache")
def page_cache(ground: Ground) -> None:
    """What is read through one child is in the page cache for its sibling exactly if the driver claims it."""
    source = ground.scratch("source")
    Editor(source).write("file", b"cached" * 200_000)
    ground.store.import_directory(source, name="base")
    ground.store.prepare("one", "base")
    ground.store.prepare("two", "base")
    claimed = ground.store.status().capabilities.shares_page_cache
    with ground.mounted("one") as one, ground.mounted("two") as two:
        for root in (one, two):
            fd = os.open(f"{root}/file", os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        if _cached(f"{two}/file"):
            _drop_caches()
        equal(_cached(f"{two}/file"), False, "cached before anything was read")
        with open(f"{one}/file", "rb") as file:
            file.read()
        found = _cached(f"{two}/file")
    if claimed:
        assert found, "the sibling's file is not in the page cache, although shares_page_cache is claimed"
    elif found:
        raise AssertionError("the sibling's file is in the page cache; claim shares_page_cache")


def _drop_caches() -> None:
    """Have the kernel forget all clean pages: advice on a file of a stack may not reach the file below it."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        raise NotApplicable("the page cache cannot be emptied here") from error


def _cached(path: str) -> bool:
    """Tell whether most of a file is in the page cache, without reading it. Source: mincore(2)."""
    import ctypes
    import mmap

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address in {None, ctypes.c_void_p(-1).value}:
            raise OSError(ctypes.get_errno(), "mmap", path)
        pages = -(-size // mmap.PAGESIZE)
        present = (ctypes.c_ubyte * pages)()
        try:
            if libc.mincore(address, size, present) != 0:
                raise OSError(ctypes.get_errno(), "mincore", path)
        finally:
            libc.munmap(address, size)
    finally:
        os.close(fd)
    return sum(page & 1 for page in present) > pages // 2


@case("beyond (11): volatile_mounts; OV-18")
def volatile_mounts(ground: Ground) -> None:
    """An ephemeral snapshot works, is mounted twice, and its mount syncs nothing where the driver claims that."""
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    ground.store.prepare("short", base, ephemeral=True)
    for number in range(2):
        with ground.mounted("short") as root:
            Editor(root, round_=3 + number).write(f"file-{number}", "x")
    with ground.mounted("short") as root:
        equal(sorted(os.listdir(root)), ["file", "file-0", "file-1"], "names")
    claimed = ground.store.status().capabilities.volatile_mounts
    mounts = ground.store.mounts("short")
    ground.store.release("short")
    ground.store.prepare("long", base)
    kept = ground.store.mounts("long")
    ground.store.release("long")
    words = {name for mount in mounts for name, _ in mount.options}
    usual = {name for mount in kept for name, _ in mount.options}
    if claimed:
        assert words != usual, "the mounts of an ephemeral snapshot are the same as those of any other"
    else:
        equal(words, usual, "options of an ephemeral snapshot's mounts")


@case("beyond (11): exact_times")
def exact_times(ground: Ground) -> None:
    """A time is kept to the nanosecond, and a directory's is not touched by a write below it, exactly if claimed."""
    wanted = 1_500_000_000_987_654_321

    def below(tree: Editor) -> None:
        tree.mkdir("dir")
        tree.write("dir/file", "base")
        tree.utime("dir", 3 * 10**9)

    ground.store.prepare("active", ground.grow(below)[0])
    with ground.mounted("active") as root:
        with open(f"{root}/dir/file", "ab") as file:
            file.write(b"more")
        os.utime(f"{root}/dir/file", ns=(wanted, wanted))
    ground.store.commit("layer", "active")
    tree = ground.scan("layer")
    kept = tree[b"dir/file"].mtime_ns == wanted, tree[b"dir"].mtime_ns == 3 * 10**9
    if ground.store.status().capabilities.exact_times:
        equal(kept, (True, True), "whether the file's time, and the directory's, are kept")
    else:
        assert not all(kept), "times are kept; claim exact_times"
        assert abs(tree[b"dir/file"].mtime_ns - wanted) < 10**9, "the file's time is not even kept to the second"


@case("beyond (11): xattr_removal")
def xattr_removal(ground: Ground) -> None:
    """An attribute of the parent's file can be removed, and its child's shows no trace of it, exactly if claimed."""

    def below(tree: Editor) -> None:
        tree.write("file", "base")
        tree.setxattr("file", "user.gone", b"value")

    ground.store.prepare("active", ground.grow(below)[0])
    with ground.mounted("active") as root:
        os.removexattr(f"{root}/file", "user.gone")
    left = ground.scan("active")[b"file"].xattrs
    if ground.store.status().capabilities.xattr_removal:
        equal(left, {}, "attributes that are left")
    else:
        assert left, "the attribute is gone; claim xattr_removal"


@case("beyond (11): inode_usage")
def inode_usage(ground: Ground) -> None:
    """Inodes are counted exactly if the driver claims it; otherwise they are -1."""
    ground.store.prepare("active")
    with ground.mounted("active") as root:
        Editor(root).write("file", "x")
    found = ground.store.usage("active").inodes
    if ground.store.status().capabilities.inode_usage:
        assert found >= 1, f"inodes of a snapshot with a file: {found}"
    else:
        equal(found, -1, "inodes that cannot be counted")


@case("beyond (11): kernel_changes; BE-03")
def kernel_changes(ground: Ground) -> None:
    """Where the kernel tells the changes, they cost what changed, not what is there, and agree with the comparison."""
    if not ground.reopen(volatile=True).status().capabilities.kernel_changes:
        return
    calls = {}
    for directories in (2, 20):
        source = ground.scratch(f"source-{directories}")
        tree = Editor(source)
        for number in range(directories):
            tree.mkdir(f"dir-{number}")
            for inner in range(50):
                tree.write(f"dir-{number}/{inner}", "x")
        base, key = f"base-{directories}", f"active-{directories}"
        ground.store.import_directory(source, name=base)
        ground.store.prepare(key, base)
        with ground.mounted(key) as root:
            Editor(root, round_=1).write("dir-1/7", "changed")
        ground.changes(key)  # What is imported at first use does not count.
        found, calls[directories] = counted(functools.partial(ground.changes, key))
        equal(found, [("modified", "dir-1"), ("modified", "dir-1/7")], "changes")
    # Whoever looks at each file calls something for each of the 900 that the second tree has more.
    assert calls[20] < calls[2] + 450, f"calls for one change, by directories of 50 files that are there: {calls}"


@case("BE-03")
def untouched_contents(ground: Ground) -> None:
    """Where the kernel tells the changes, what nobody touched is not read: by its count of the bytes that were."""
    if not ground.store.status().capabilities.kernel_changes:
        raise NotApplicable("the driver compares two trees")
    if not os.path.exists(ACCOUNTS):
        raise NotApplicable("this kernel does not count what a process reads")
    files, size = 40, 1 << 18
    source = ground.scratch("source")
    tree = Editor(source)
    for number in range(files):
        tree.write(f"file-{number}", os.urandom(size // 2).hex())
    ground.store.import_directory(source, name="base")
    ground.store.prepare("active", "base")
    with ground.mounted("active") as root:
        Editor(root, round_=1).write("file-7", "changed")
    ground.changes("active")  # what is imported, or looked at only once, does not count
    before = accounts()["rchar"]
    equal(ground.changes("active"), [("modified", "file-7")], "changes")
    taken = accounts()["rchar"] - before
    assert taken < files * size // 4, f"{taken} bytes were read where {files * size} were left alone"


@case("beyond (11): shared_writing", privileged=True)
def shared_writing(ground: Ground) -> None:
    """Two callers who mount one active snapshot themselves see one tree, exactly if the driver claims it; else Busy."""
    from cowstore import mounting

    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    store = ground.store
    store.prepare("active", base)
    places = [ground.scratch("one"), ground.scratch("two")]
    with ground.factory.open(ground.root) as other:
        mounting.attach(store.mounts("active"), places[0])
        try:
            if not store.status().capabilities.shared_writing:
                refused(Busy, lambda: other.mounts("active"))
            else:
                mounting.attach(other.mounts("active"), places[1])
                try:
                    for here, there in (places, places[::-1]):
                        Editor(here, round_=3).append("file", " and more")
                        with open(f"{here}/file", "rb") as mine, open(f"{there}/file", "rb") as theirs:
                            equal(mine.read(), theirs.read(), "content by the two mounts")
                finally:
                    mounting.detach(places[1])
                    other.release("active")
            Editor(places[0], round_=5).write("new", "by the first")
        finally:
            mounting.detach(places[0])
            store.release("active")
    ground.reopen()
    with ground.mounted("active") as root:
        equal(sorted(os.listdir(root)), ["file", "new"], "names")


@case("beyond (11): rootless", privileged=True)
def rootless(ground: Ground) -> None:
    """An ordinary user can make a store and use it exactly if the driver claims it."""
    import shutil
    import tempfile

    claimed = ground.store.status().capabilities.rootless
    # Not below the case's directory, into which an ordinary user may have no way.
    home = tempfile.mkdtemp(prefix="cowstore-suite-", dir="/tmp")
    try:
        os.chown(home, 65534, 65534)
        code, said = _as_ordinary_user(ground, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if claimed:
        equal(code, 0, f"status of an ordinary user's work, which said {said!r}")
    elif code == 0:
        raise AssertionError("an ordinary user could do everything; claim rootless")
    else:
        assert said.startswith(("DriverUnavailable", "Unsupported")), (
            f"the refusal is not one that says what to do: {said}"
        )


_LIFE = """
import json, sys
name, module, attribute, options, root = sys.argv[1:]
import cowstore, cowstore.drivers
cowstore.drivers.BUILT_IN[name] = (module, attribute)
try:
    with cowstore.open(root, driver=name, options=json.loads(options)) as store:
        store.prepare("active")
        store.commit("layer", "active")
        store.prepare("child", "layer")
        list(store.changes("child"))
        store.usage("child")
        assert not store.check()
        store.destroy()
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
"""What an ordinary user does in another interpreter: the suite's own may lie where that user has no way."""


def _as_ordinary_user(ground: Ground, home: str) -> tuple[int, str]:
    """Lead a short life of a store as user 65534; returns the status and what went wrong."""
    import json
    import shutil
    import subprocess
    import sys

    from cowstore import drivers

    driver = drivers.load(ground.factory.driver)
    for package in {"cowstore", driver.__module__.partition(".")[0]}:
        source = sys.modules[package].__file__
        assert source is not None
        if os.path.basename(source) == "__init__.py":
            shutil.copytree(
                os.path.dirname(source), f"{home}/{package}", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            shutil.copy(source, home)
    words = [driver.name, driver.__module__, driver.__qualname__, json.dumps(ground.factory.options), f"{home}/store"]
    done = subprocess.run(
        [_interpreter_for_all(), "-c", _LIFE, *words],
        user=65534,
        group=65534,
        extra_groups=[],
        env={"HOME": home, "PYTHONPATH": home, "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr.strip()


def _interpreter_for_all() -> str:
    """Name an interpreter that any user may run.

    :raises NotApplicable: there is none.
    """
    import subprocess
    import sys

    wanted = "import sys; sys.exit(sys.version_info < (3, 11))"
    for candidate in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run(
                [candidate, "-c", wanted],
                user=65534,
                group=65534,
                extra_groups=[],
                env={},
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    raise NotApplicable("there is no Python 3.11 that an ordinary user may run: install python3 for the whole machine")
