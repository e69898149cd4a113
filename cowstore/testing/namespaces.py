"""What other processes hold on to: mounts copied into their namespaces, open files, directories, locks, forks."""

from __future__ import annotations

import os
import signal
import time
import traceback
from contextlib import contextmanager

from cowstore.errors import Busy
from cowstore.testing import leaks, oracle
from cowstore.testing._case import Ground, case
from cowstore.testing._expect import equal, refused
from cowstore.testing.edits import Editor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """Fork a process that does *work*, says so, and waits to be killed at the end of the block.

    :raises AssertionError: it could not do its work.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(120)
            os.close(reader)
            work()
            os.write(writer, b"1")
            while True:
                time.sleep(60)
        except BaseException:  # noqa: BLE001 - the child ends here
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"1", "the process could not do its work"
        yield pid
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _base(ground: Ground) -> str:
    def edits(tree: Editor) -> None:
        tree.mkdir("dir")
        tree.write("dir/file", "base")
        tree.write("file", "base")

    return ground.grow(edits)[0]


def _own_mounts() -> None:
    """Take a copy of all mounts into a namespace of one's own, as ``unshare -m`` does."""
    from cowstore._linux.mount import MountFlag, mount
    from cowstore._linux.namespaces import CloneFlag, unshare

    unshare(CloneFlag.NEWNS)
    mount("none", "/", None, MountFlag.REC | MountFlag.PRIVATE, None)


@case("OV-20, DM-16: moby#34672; beyond (9)", privileged=True)
def copied_mount(ground: Ground) -> None:
    """A mount copied into another namespace hinders neither unmounting, commit, a child, nor (in the end) removal."""
    base = _base(ground)
    store = ground.store
    store.prepare("active", base)
    mounted = store.mounted("active")
    root = os.fsdecode(mounted.__enter__())
    with child(_own_mounts):
        Editor(root, round_=3).write("file", "changed")
        mounted.__exit__(None, None, None)
        equal(leaks.mounts_below(ground.root), [], "mounts here")
        store.commit("layer", "active")
        store.prepare("next", "layer")
        with ground.mounted("next") as again, open(f"{again}/file", encoding="utf-8") as file:
            equal(file.read(), "changed", "content")
        store.remove("next")
        try:
            store.remove("layer")
        except Busy:
            # A device that is held elsewhere cannot go yet; it must say so, and go later.
            pass
    if "layer" in ground.listed():
        store.remove("layer")
    equal(ground.listed(), {base}, "keys")


@case("RT-23, OV-20: mounts do not spread", privileged=True)
def private_mount(ground: Ground) -> None:
    """A mount below the store is private: another namespace, made earlier, does not see it come."""
    base = _base(ground)
    ground.store.prepare("active", base)

    def wait_and_look() -> None:
        from cowstore._linux.namespaces import CloneFlag, unshare

        unshare(CloneFlag.NEWNS)

    with child(wait_and_look) as pid, ground.mounted("active"):
        there = leaks.mounts_below(ground.root, table=f"/proc/{pid}/mountinfo")
        equal(there, [], "mounts of the store that came into another namespace")


@case("containerd, wanted: OpenFileInodeStability (moby#12327), GetCWD (#19082); beyond (9)")
def open_file_and_directory(ground: Ground) -> None:
    """A file and a working directory held open within a snapshot: it is busy by its lease, and they stay usable."""
    base = _base(ground)
    ground.store.prepare("active", base)
    here = os.getcwd()
    with ground.mounted("active") as root:
        before = os.stat(f"{root}/dir").st_ino
        file = open(f"{root}/dir/file", "r+b")  # noqa: SIM115 - stays open beyond the edits below
        try:
            number = os.fstat(file.fileno()).st_ino
            os.chdir(f"{root}/dir")
            refused(Busy, lambda: ground.store.commit("layer", "active"))
            equal(os.getcwd(), f"{root}/dir", "working directory")
            file.write(b"open")
            file.flush()
            equal(os.fstat(file.fileno()).st_ino, number, "inode of the open file")
            equal(os.stat("file").st_ino, number, "inode of the file's name")
            with open("file", "rb") as again:
                equal(again.read(), b"open", "content by name")
        finally:
            os.chdir(here)
            file.close()
        equal(os.stat(f"{root}/dir").st_ino, before, "inode of the directory (moby#19647)")
    ground.store.commit("layer", "active")
    with ground.mounted("layer") as root, open(f"{root}/dir/file", "rb") as again:
        equal(again.read(), b"open", "content of the layer")


@case("beyond (9): open files across unmount", privileged=True)
def held_by_another(ground: Ground) -> None:
    """A process that sits in the tree when it is unmounted: the unmount ends, and what it wrote is in the layer."""
    base = _base(ground)
    store = ground.store
    store.prepare("active", base)
    mounted = store.mounted("active")
    root = os.fsdecode(mounted.__enter__())

    def sit() -> None:
        os.chdir(f"{root}/dir")
        fd = os.open("held", os.O_CREAT | os.O_RDWR, 0o644)
        os.write(fd, b"held")

    with child(sit):
        mounted.__exit__(None, None, None)
        equal(leaks.mounts_below(ground.root), [], "mounts")
        try:
            store.commit("layer", "active")
        except Busy:
            # That is the right refusal for a tree which is still held.
            pass
    if "active" in ground.listed():
        store.commit("layer", "active")
    with ground.mounted("layer") as again, open(f"{again}/dir/held", "rb") as file:
        equal(file.read(), b"held", "what was written")


@case("ST-08: podman#614")
def many_mounts(ground: Ground) -> None:
    """Mounts of one snapshot that come and go in several processes do not pull the tree from under each other."""
    base = _base(ground)
    ground.store.view("seen", base)
    ground.shut()
    pids = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.alarm(60)
                with ground.factory.open(ground.root) as store:
                    for turn in range(25):
                        with store.mounted("seen") as root:
                            time.sleep((number * 7 + turn) % 5 / 1000)
                            assert (root / "dir/file").read_text() == "base"
                code = 0
            except BaseException:  # noqa: BLE001 - the child ends here
                traceback.print_exc()
            finally:
                os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    equal(codes, [0, 0, 0], "statuses of the processes")
    equal(leaks.mounts_below(ground.root), [], "mounts")


@case("beyond (8): fork without exec; locks not inherited")
def fork_without_exec(ground: Ground) -> None:
    """A forked child can use the store; its end gives up nothing of its parent's, and its life keeps nothing busy."""
    base = _base(ground)
    store = ground.store
    store.prepare("active", base)
    store.prepare("short", base, ephemeral=True)

    def use() -> None:
        assert store.stat("active").key == "active"
        store.prepare("by-child", base)
        with store.mounted("by-child") as root:
            (root / "file").write_text("child")

    with ground.mounted("active") as root:
        with child(use):
            refused(Busy, lambda: store.remove("active"))
            assert "by-child" in ground.listed(), "what the child made is not there"
        with child(store.close):
            pass
        assert os.path.exists(f"{root}/file"), "the tree has gone with the child"
        with ground.factory.open(ground.root) as other:
            refused(Busy, lambda: other.remove("active"))
            assert "short" in {snapshot.key for snapshot in other.walk()}, "an ephemeral one has gone with the child"
    with ground.mounted("active"):
        process = child(lambda: None)
        process.__enter__()
    try:
        # The tree is unmounted here, while a process lives on that was forked when it was mounted.
        with ground.factory.open(ground.root) as other:
            other.commit("early", "active")
        store.prepare("active", "early")
    finally:
        process.__exit__(None, None, None)
    with child(lambda: None):
        # The child lives, with copies of everything its parent had open; that keeps nothing busy.
        store.commit("layer", "active")
        store.remove("by-child")
        ground.shut()
        with ground.factory.open(ground.root) as other:
            equal(
                {snapshot.key for snapshot in other.walk()},
                {base, "early", "layer"},
                "keys after the parent has closed its store",
            )


@case("beyond (7), design: a dead owner's mount is taken down at open")
def killed_while_mounted(ground: Ground) -> None:
    """A process killed inside `mounted` leaves a mount; the next opening takes it down and the snapshot is free."""
    base = _base(ground)
    ground.store.prepare("active", base)
    ground.shut()

    def mount() -> None:
        store = ground.factory.open(ground.root)
        with store.mounted("active") as root:
            (root / "file").write_text("before the end")
            os.sync()
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            mount()
        finally:
            os._exit(1)
    equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), -signal.SIGKILL, "status of the killed process")
    ground.reopen()
    equal(leaks.mounts_below(ground.root), [], "mounts after opening")
    ground.store.commit("layer", "active")
    with ground.mounted("layer") as root, open(f"{root}/file", encoding="utf-8") as file:
        equal(file.read(), "before the end", "content")


@case("beyond (8): locks not inherited by children")
def killed_with_a_living_child(ground: Ground) -> None:
    """The owner is killed, and a process it had forked lives on: what was the owner's is cleaned up all the same."""
    base = _base(ground)
    ground.store.prepare("active", base)
    ground.shut()
    reader, writer = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            store = ground.factory.open(ground.root)
            store.prepare("short", base, ephemeral=True)
            store.mounted("active").__enter__()
            if os.fork() == 0:
                # Said by the child itself: before it first runs it still has what its parent had, open locks and all.
                os.write(writer, str(os.getpid()).encode())
                time.sleep(120)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb", buffering=0) as pipe:
        os.waitpid(owner, 0)
        heir = int(pipe.read(20))
    try:
        ground.reopen()
        equal(ground.listed(), {base, "active"}, "keys: the ephemeral one has gone with its owner")
        equal(leaks.mounts_below(ground.root), [], "mounts")
        ground.store.commit("layer", "active")
    finally:
        os.kill(heir, signal.SIGKILL)
    ground.clean()


@case("beyond (8); design: a store used from two pid namespaces", privileged=True)
def two_pid_namespaces(ground: Ground) -> None:
    """In another pid namespace, where process ids mean others, leases still tell the living from the dead."""
    from cowstore._linux.namespaces import CloneFlag, unshare

    base = _base(ground)
    store = ground.store
    store.prepare("active", base)
    mounted = store.mounted("active")
    mounted.__enter__()

    def inside() -> None:
        unshare(CloneFlag.NEWPID)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert os.getpid() == 1
                with ground.factory.open(ground.root) as other:
                    refused(Busy, lambda: other.remove("active"))
                    other.prepare("short", base, ephemeral=True)
                    other.prepare("long", base)
                    with other.mounted("short") as root:
                        (root / "x").write_text("x")
                    os.kill(os.getpid(), signal.SIGKILL) if os.getpid() != 1 else os._exit(0)
            except BaseException:  # noqa: BLE001 - the child ends here
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    with child(inside):
        with ground.factory.open(ground.root) as other:
            found = {snapshot.key for snapshot in other.walk()}
        equal(found, {base, "active", "long"}, "keys: the dead owner's ephemeral one is gone, the living one's stay")
    mounted.__exit__(None, None, None)
    tree = oracle.scan(ground.flat)
    ground.assert_same(tree, ground.scan("active"), what="active")
