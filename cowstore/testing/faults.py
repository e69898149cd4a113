"""A process is killed between every two steps of every verb; the store must not show it afterwards.

First the verb runs to its end and tells which fault points it passes. Then, for each of them, a forked child runs the
verb on a fresh store of the same making and kills itself there. The parent opens the store again and asserts that

* the snapshots listed are those from before the verb or those from after it, and no others;
* nothing is in flight, the store's check finds nothing, and nothing is left mounted below the store;
* the verb can be done again if it was not, and in both cases what it gives is right.

Opening a store is a verb like the others: it is killed as well while it recovers from a killed verb.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from dataclasses import dataclass, field

from cowstore import _faults
from cowstore.testing import leaks, oracle
from cowstore.testing._case import Factory, Ground, NotApplicable
from cowstore.testing.edits import Editor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cowstore.store import Store

    Facts = dict[str, tuple[str, str | None, tuple[tuple[str, str], ...]]]

_NOT_REACHED = 3
_FAILED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One verb and what stands around it.

    :ivar name: of the verb. :ivar set_up: makes what the verb works on. :ivar act: the verb; is killed.
    :ivar verify: asserts the result of the finished verb.
    :ivar needs: capability flags without which there is no such verb.
    """

    name: str
    set_up: Callable[[Ground], object]
    act: Callable[[Ground], object]
    verify: Callable[[Ground], object]
    needs: tuple[str, ...] = ()


@dataclass(slots=True)
class Point:
    """The *count*-th passage of the fault point *name* in the verb of *scenario*, perhaps with one of recovery."""

    scenario: Scenario
    name: str
    count: int
    recovery: tuple[str, int] | None = field(default=None)

    def __str__(self) -> str:
        again = "" if self.recovery is None else f", then {self.recovery[0]}#{self.recovery[1]} of the opening"
        return f"{self.scenario.name} killed at {self.name}#{self.count}{again}"


def _base(ground: Ground) -> None:
    def edits(tree: Editor) -> None:
        tree.write("file", "base")
        tree.makedirs("a/b")
        tree.write("a/b/c", "deep")

    ground.store.prepare("making")
    ground.edit("making", edits, restart=True)
    ground.store.commit("base", "making")


def _active(ground: Ground) -> None:
    _base(ground)
    ground.store.prepare("active", "base", labels={"kept": "yes"})

    def edits(tree: Editor) -> None:
        tree.write("file", "changed")
        tree.remove("a/b")
        tree.write("new", "new")

    ground.edit("active", edits)


def _view(ground: Ground) -> None:
    _base(ground)
    ground.store.view("seen", "base")


def _limited(ground: Ground) -> None:
    _base(ground)
    ground.store.prepare("active", "base", size_bytes=64 << 20)


def _source(ground: Ground) -> str:
    path = os.path.join(ground.directory, "source")
    if not os.path.isdir(path):
        os.mkdir(path)
        os.chmod(path, 0o755)
        tree = Editor(path)
        tree.makedirs("etc/sub")
        tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        tree.write("etc/sub/big", b"0123456789abcdef" * 10_000)
        tree.symlink("passwd", "etc/link")
    return path


def _tar(ground: Ground) -> str:
    import tarfile

    path = os.path.join(ground.directory, "source.tar")
    if not os.path.exists(path):
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(_source(ground), arcname=".")
    return path


def _nothing(_ground: Ground) -> None:
    return


def _mount_and_wait(ground: Ground) -> None:
    with ground.mounted("active"):
        _faults.point("testing.mounted")


def _two_ephemeral(ground: Ground) -> None:
    ground.store.prepare("short-1", "base", ephemeral=True)
    with ground.mounted("short-1") as root:
        Editor(root, round_=3).write("x", "x")
        _faults.point("testing.ephemeral.mounted")
    ground.store.prepare("short-2", "base", ephemeral=True)
    _faults.point("testing.ephemeral.made")
    ground.shut()


def _is_base(key: str) -> Callable[[Ground], None]:
    def verify(ground: Ground) -> None:
        ground.same(key)

    return verify


def _committed_right(ground: Ground) -> None:
    found = ground.store.stat("layer")
    assert found.parent == "base", f"parent of the committed one is {found.parent}"
    assert dict(found.labels) == {"new": "yes"}, f"labels of the committed one are {found.labels}"
    ground.look("layer")
    ground.store.prepare("child", "layer")
    ground.same("child")
    ground.store.remove("child")


def _imported_right(ground: Ground) -> None:
    # The times of directories in a plain archive are whole seconds or not, as tarfile pleases.
    ground.same("imported", _source(ground), ignore=frozenset({"mtime_ns"}))


def _changed_twice(ground: Ground) -> None:
    list(ground.store.changes("active"))
    ground.store.usage("active")


SCENARIOS = (
    Scenario(
        name="open a new store",
        set_up=_nothing,
        act=lambda ground: ground.store.status(),
        verify=lambda ground: ground.store.prepare("works"),
    ),
    Scenario(name="open a store", set_up=_active, act=lambda ground: ground.store.status(), verify=_is_base("active")),
    Scenario(
        name="prepare",
        set_up=_base,
        act=lambda ground: ground.store.prepare("active", "base", labels={"a": "b"}),
        verify=_is_base("active"),
    ),
    Scenario(
        name="prepare without parent",
        set_up=_nothing,
        act=lambda ground: ground.store.prepare("active"),
        verify=lambda ground: _assert_empty(ground, "active"),
    ),
    Scenario(
        name="prepare with a size",
        set_up=_base,
        act=lambda ground: ground.store.prepare("active", "base", size_bytes=64 << 20),
        verify=_is_base("active"),
        needs=("size_limits",),
    ),
    Scenario(name="view", set_up=_base, act=lambda ground: ground.store.view("seen", "base"), verify=_is_base("seen")),
    Scenario(
        name="commit",
        set_up=_active,
        act=lambda ground: ground.store.commit("layer", "active", labels={"new": "yes"}),
        verify=_committed_right,
    ),
    Scenario(
        name="remove an active one", set_up=_active, act=lambda ground: ground.store.remove("active"), verify=_nothing
    ),
    Scenario(
        name="remove a committed one", set_up=_base, act=lambda ground: ground.store.remove("base"), verify=_nothing
    ),
    Scenario(
        name="remove a view",
        set_up=_view,
        act=lambda ground: ground.store.remove("seen"),
        verify=_nothing,
    ),
    Scenario(
        name="update",
        set_up=_active,
        act=lambda ground: ground.store.update("active", {"other": "labels"}),
        verify=_is_base("active"),
    ),
    Scenario(name="mount", set_up=_active, act=_mount_and_wait, verify=_is_base("active")),
    Scenario(name="look", set_up=_active, act=_changed_twice, verify=_is_base("active")),
    Scenario(name="ephemeral", set_up=_base, act=_two_ephemeral, verify=_nothing),
    Scenario(
        name="import a directory",
        set_up=_nothing,
        act=lambda ground: ground.store.import_directory(_source(ground), name="imported"),
        verify=_imported_right,
    ),
    Scenario(
        name="import an archive",
        set_up=_nothing,
        act=lambda ground: ground.store.import_tar(_tar(ground), name="imported"),
        verify=_imported_right,
    ),
    Scenario(
        name="adopt",
        set_up=_nothing,
        act=lambda ground: ground.store.adopt("imported", _source(ground)),
        verify=_imported_right,
        needs=("adopts",),
    ),
    Scenario(
        name="set the size",
        set_up=_limited,
        act=lambda ground: ground.store.set_size("active", 128 << 20),
        verify=_is_base("active"),
        needs=("size_limits",),
    ),
    Scenario(name="clean up", set_up=_active, act=lambda ground: ground.store.cleanup(), verify=_is_base("active")),
    Scenario(name="destroy", set_up=_active, act=lambda ground: ground.store.destroy(), verify=_nothing),
)
"""The verbs that are killed."""


def _assert_empty(ground: Ground, key: str) -> None:
    with ground.mounted(key) as root:
        assert not os.listdir(root), f"{key} is not empty"


def facts(store: Store) -> Facts:
    """List kind, parent and labels of all snapshots."""
    return {
        snapshot.key: (
            str(snapshot.kind),
            snapshot.parent,
            # Labels that the store sets itself tell where something came from.
            tuple(sorted((name, value) for name, value in snapshot.labels.items() if not name.startswith("cowstore."))),
        )
        for snapshot in store.walk()
    }


def _ground(factory: Factory, scenario: Scenario) -> Ground:
    """Give what the verb works on, the store closed."""
    return factory.begin(scenario.name, lambda: _made(factory, scenario))


def _made(factory: Factory, scenario: Scenario) -> Ground:
    ground = Ground(factory, scenario.name.replace(" ", "-"))
    if scenario.set_up is not _nothing:
        scenario.set_up(ground)
    elif scenario.name != "open a new store":
        ground.store.status()
    _source(ground)
    _tar(ground)
    ground.shut()
    return ground


def _missing(factory: Factory, scenario: Scenario) -> list[str]:
    if not scenario.needs:
        return []
    probe = Ground(factory, "needs")
    try:
        missing = [flag for flag in scenario.needs if not getattr(probe.store.capabilities, flag)]
        probe.destroy()
    finally:
        probe.discard()
    return missing


def points(factory: Factory, scenario: Scenario) -> list[Point]:
    """Run the verb to its end, verify it, and list the fault points it passes.

    :raises NotApplicable: the driver does not claim what the verb needs.
    """
    if missing := _missing(factory, scenario):
        raise NotApplicable(f"the {factory.driver} driver does not claim {', '.join(missing)}")
    ground = _ground(factory, scenario)
    passed: list[str] = []
    try:
        _faults.hook = passed.append
        try:
            _whole(scenario, ground)
        finally:
            _faults.hook = None
        ground.reopen()
        scenario.verify(ground)
        ground.destroy()
    except BaseException:
        ground.abandon()
        raise
    finally:
        ground.discard()
    return [Point(scenario, name, passed[: index + 1].count(name)) for index, name in enumerate(passed)]


def _whole(scenario: Scenario, ground: Ground) -> None:
    """Do the verb, with a point after its last step; before the first one nothing has happened."""
    scenario.act(ground)
    _faults.point("testing.done")


def _run_until(ground: Ground, act: Callable[[Ground], object], name: str, count: int) -> bool:
    """Fork a child that runs *act* and kills itself at the point; tell whether it came that far.

    :raises AssertionError: the child failed by itself.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        # A collection would touch, and so copy, all of the parent's memory.
        gc.disable()
        code = _FAILED
        try:
            left = count

            def hook(passed: str) -> None:
                nonlocal left
                if passed == name:
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            _faults.hook = hook
            act(ground)
            code = _NOT_REACHED
        except BaseException:  # noqa: BLE001 - the child ends here, whatever happened
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {-signal.SIGKILL, _NOT_REACHED}, f"the child that should be killed at {name} ended with {code}"
    return code == -signal.SIGKILL


def _recovery_points(ground: Ground) -> list[tuple[str, int]]:
    """Open the store in a child, and list the fault points which that passes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        gc.disable()
        try:

            def tell(name: str) -> None:
                os.write(writer, name.encode() + b"\n")

            _faults.hook = tell
            ground.store.status()
            ground.shut()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        passed = pipe.read().decode().split()
    os.waitpid(child, 0)
    return [(name, passed[: index + 1].count(name)) for index, name in enumerate(passed)]


def kill(factory: Factory, point: Point) -> None:
    """Kill the verb at the point, open the store again, and assert that nothing of it shows.

    :raises AssertionError: something does.
    """
    ground = _ground(factory, point.scenario)
    try:
        before = facts(ground.store) if point.scenario.name != "open a new store" else {}
        ground.shut()
        reached = _run_until(ground, lambda made: _whole(point.scenario, made), point.name, point.count)
        assert reached, f"{point}: the second run did not pass the point; a verb must pass the same points each time"
        if point.recovery is not None:
            _run_until(ground, lambda _: ground.reopen(), *point.recovery)
        _look(ground, point, before)
        ground.destroy()
    except BaseException as error:
        ground.abandon()
        error.add_note(str(point))
        raise
    finally:
        ground.discard()
    left = leaks.mounts_below(ground.directory)
    assert not left, f"{point}: mounts are left: {left}"


def _look(ground: Ground, point: Point, before: Facts) -> None:
    scenario = point.scenario
    left_mounted = leaks.mounts_below(ground.root)
    store = ground.reopen()
    if scenario.name == "destroy":
        # However far it came: what is listed is whole, and the rest of the work can be done.
        ground.clean()
        for key in ground.listed():
            assert b"file" in ground.scan(key), f"{point}: {key} is listed, and its tree is gone"
        return
    for key in _writable_keys(store):
        # Lets go of what a dead owner's mount needs, where the driver only then can.
        with ground.mounted(key):
            pass
    ground.clean()
    found = facts(store)
    flying = store.status().in_flight
    assert flying == 0, f"{point}: {flying} verbs are said to be under way; mounted before: {left_mounted}"
    trees = {key: ground.scan(key) for key in found if key in before and found[key] == before[key]}
    again = found == before
    if again:
        scenario.act(ground)
        if ground.listed() != set(before):
            found = facts(ground.reopen())
    expected = _after(scenario, before)
    assert facts(ground.store) == expected, f"{point}: expected {expected}, found {found} (before: {before})"
    for key, tree in trees.items():
        if key in expected and expected[key] == before[key]:
            oracle.assert_same_trees(tree, ground.scan(key), what=f"{point}: {key}")
    scenario.verify(ground)


def _writable_keys(store: Store) -> list[str]:
    return [snapshot.key for snapshot in store.walk(kind="active")]


def _after(scenario: Scenario, before: Facts) -> Facts:
    """Tell what the finished verb makes of what there was."""
    kept = dict(before)
    match scenario.name.split(" ")[0]:
        case "prepare":
            labels = (("a", "b"),) if scenario.name == "prepare" else ()
            kept["active"] = ("active", "base" if "base" in before else None, labels)
        case "view":
            kept["seen"] = ("view", "base", ())
        case "commit":
            del kept["active"]
            kept["layer"] = ("committed", "base", (("new", "yes"),))
        case "remove":
            gone = {"remove an active one": "active", "remove a committed one": "base", "remove a view": "seen"}
            del kept[gone[scenario.name]]
        case "update":
            kept["active"] = ("active", "base", (("other", "labels"),))
        case "import" | "adopt":
            kept["imported"] = ("committed", None, ())
    return kept


def twice(factory: Factory, point: Point, *, most: int) -> Iterator[Point]:
    """List the points at which the opening after *point* can be killed in turn, *most* of them, spread evenly."""
    ground = _ground(factory, point.scenario)
    try:
        if point.scenario.name == "open a new store":
            return
        _run_until(ground, lambda made: _whole(point.scenario, made), point.name, point.count)
        passed = _recovery_points(ground)
        ground.destroy()
    except BaseException:
        ground.abandon()
        raise
    finally:
        ground.discard()
    step = max(1, -(-len(passed) // most))
    for recovery in passed[::step]:
        yield Point(point.scenario, point.name, point.count, recovery)


def everything(factory: Factory, scenarios: Sequence[Scenario] = SCENARIOS, *, recovery: int = 2) -> int:
    """Kill all verbs at all their points, and the opening after each at up to *recovery* of its own.

    :returns: how many processes were killed.
    :raises AssertionError: one of them left a trace.
    """
    killed = 0
    for scenario in scenarios:
        try:
            found = points(factory, scenario)
        except NotApplicable:
            continue
        for point in found:
            kill(factory, point)
            killed += 1
            for again in twice(factory, point, most=recovery):
                kill(factory, again)
                killed += 1
    return killed
