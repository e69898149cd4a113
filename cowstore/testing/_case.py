"""Cases, what they stand on, and how they are run."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from cowstore.testing import leaks, oracle
from cowstore.testing.edits import Editor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from cowstore.model import Snapshot
    from cowstore.store import Store
    from cowstore.testing.edits import Edit


class NotApplicable(Exception):
    """The case asks for something that this driver, user or machine does not have; the text says what."""


class Factory:
    """Makes stores of one driver, each in a fresh directory, and opens them again.

    :param driver: the driver's name.
    :param options: its options.
    :param directory: where to make them; a fresh directory below the temporary one if None. Nothing else is touched.
    :param volatile: open them as volatile unless a case says otherwise.
    :param copies: a closed store is nothing but files, so that a copy of its directory is a store like it, as long as
        the two are not open at once. What many tests begin with is then made once, and copied.
    """

    def __init__(
        self,
        driver: str,
        *,
        options: Mapping[str, object] | None = None,
        directory: str | None = None,
        volatile: bool = False,
        copies: bool = False,
    ) -> None:
        self.driver = driver
        self.options = dict(options or {})
        self.volatile = volatile
        self.copies = copies
        self._begun: dict[str, Ground] = {}
        self.directory = os.path.realpath(directory or tempfile.mkdtemp(prefix="cowstore-suite-"))
        self._own = directory is None
        self._count = 0

    def fresh(self, name: str = "case") -> str:
        """Make a fresh directory."""
        self._count += 1
        path = os.path.join(self.directory, f"{name.replace('/', '.')}-{self._count}")
        os.makedirs(path)
        return path

    def open(self, root: str | bytes, **changed: object) -> Store:
        """Open, or make, the store at *root*.

        :param changed: arguments of :func:`cowstore.open` that differ from the factory's.
        """
        import cowstore

        arguments: dict[str, object] = {"driver": self.driver, "options": self.options, "volatile": self.volatile}
        arguments.update(changed)
        store: Store = cowstore.open(root, **arguments)  # type: ignore[arg-type]
        return store

    def begin(self, name: str, make: Callable[[], Ground]) -> Ground:
        """Give a closed ground as *make* makes it: where stores can be copied, a copy of the first one of that name."""
        if not self.copies:
            return make()
        if name not in self._begun:
            self._begun[name] = make()
        return self._begun[name].copied()

    def close(self) -> None:
        """Remove what :meth:`begin` kept, and the directory, if the factory made it."""
        for ground in self._begun.values():
            ground.discard()
        self._begun.clear()
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case of the suite.

    :ivar name: module and function, ``"snapshots.basic"``. :ivar origin: where the question comes from.
    :ivar function: asks it. :ivar needs: capability flags of the driver without which there is no question.
    :ivar privileged: only root can ask. :ivar slow: takes seconds.
    """

    name: str
    origin: str
    function: Callable[[Ground], None]
    needs: tuple[str, ...] = ()
    privileged: bool = False
    slow: bool = False

    @property
    def text(self) -> str:
        """What the case asks, in a sentence."""
        return (self.function.__doc__ or "").strip().partition("\n\n")[0]


_registry: dict[str, Case] = {}


def case(
    origin: str, *, needs: Sequence[str] = (), privileged: bool = False, slow: bool = False
) -> Callable[[Callable[[Ground], None]], Callable[[Ground], None]]:
    """Enter a function into the list of cases."""

    def enter(function: Callable[[Ground], None]) -> Callable[[Ground], None]:
        name = f"{function.__module__.rpartition('.')[2].removesuffix('_cases')}.{function.__name__}"
        if name in _registry:
            raise ValueError(f"there are two cases {name}")
        _registry[name] = Case(
            name=name, origin=origin, function=function, needs=tuple(needs), privileged=privileged, slow=slow
        )
        return function

    return enter


def registered() -> tuple[Case, ...]:
    """List what was entered so far, in that order."""
    return tuple(_registry.values())


class Ground:
    """What one case stands on: a store, a flat directory that gets the same edits, and room for more.

    :ivar factory: makes the stores. :ivar directory: the case's own. :ivar root: the store's directory.
    :ivar flat: the flat directory.
    """

    def __init__(self, factory: Factory, name: str = "case") -> None:
        self.factory = factory
        self.directory = factory.fresh(name)
        self.root = os.path.join(self.directory, "store")
        self.flat = os.path.join(self.directory, "flat")
        os.mkdir(self.flat)
        os.chmod(self.flat, 0o755)
        self._store: Store | None = None
        self._round = 0
        self._stages = 0

    @property
    def store(self) -> Store:
        """The case's store, opened when it is first asked for."""
        if self._store is None:
            self._store = self.factory.open(self.root)
        return self._store

    def reopen(self, **changed: object) -> Store:
        """Close the store and open it again, perhaps with other arguments of :func:`cowstore.open`."""
        self.shut()
        self._store = self.factory.open(self.root, **changed)
        return self._store

    def shut(self) -> None:
        """Close the store; it opens again when it is next asked for."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def copied(self) -> Ground:
        """Copy a ground whose store is closed."""
        from cowstore.trees.copy import copy_tree

        other = Ground(self.factory, os.path.basename(self.directory))
        os.rmdir(other.flat)
        source = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        target = os.open(other.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            copy_tree(source, target)
        finally:
            os.close(source)
            os.close(target)
        other._round, other._stages = self._round, self._stages
        return other

    def scratch(self, name: str) -> str:
        """Make an empty directory beside the store."""
        path = os.path.join(self.directory, name)
        os.mkdir(path)
        os.chmod(path, 0o755)
        return path

    @contextmanager
    def mounted(self, key: str) -> Iterator[str]:
        """Mount a snapshot of the case's store for the length of the block."""
        with self.store.mounted(key) as root:
            yield os.fsdecode(root)

    def edit(self, key: str, *edits: Edit, restart: bool = False) -> None:
        """Do the same edits in the snapshot and in the flat directory, and compare while it is mounted.

        :param restart: the snapshot has no parent, so the flat directory begins anew.
        """
        if restart:
            self.clear()
        with self.mounted(key) as root:
            for top in (self.flat, root):
                editor = Editor(top, round_=self._round, fresh=restart)
                for edit in edits:
                    edit(editor)
            if is_root():
                self.assert_same(oracle.scan(self.flat), oracle.scan(root), what=f"{key} while mounted")
        if not is_root():
            # The kernel gives a copied-up file another number in a user's namespace, and its names know it by and by.
            self.same(key)
        self._round += 1

    def clear(self) -> None:
        """Empty the flat directory."""
        for name in os.listdir(os.fsencode(self.flat)):
            path = os.path.join(os.fsencode(self.flat), name)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        for attribute in os.listxattr(self.flat):
            if attribute.startswith(("user.", "trusted.", "system.posix")):
                os.removexattr(self.flat, attribute)
        os.chmod(self.flat, 0o755)
        os.chown(self.flat, os.geteuid(), os.getegid())

    def same(self, key: str, expected: str | None = None, *, ignore: frozenset[str] = frozenset()) -> None:
        """Compare a snapshot with the flat directory, or with *expected*."""
        with self.mounted(key) as root:
            self.assert_same(oracle.scan(expected or self.flat), oracle.scan(root), ignore=ignore, what=key)

    def assert_same(
        self, expected: oracle.Tree, found: oracle.Tree, *, ignore: frozenset[str] = frozenset(), what: str
    ) -> None:
        """Compare a tree that a plain directory has with a snapshot's, as exactly as the driver keeps times."""
        if not self.store.capabilities.exact_times:
            expected, found = oracle.coarse(expected), oracle.coarse(found)
        oracle.assert_same_trees(expected, found, ignore=ignore, what=what)

    def assert_changes(
        self, found: list[tuple[str, str]], before: oracle.Tree, after: oracle.Tree, *, what: str
    ) -> None:
        """Compare what was told with what changed from one plain directory to another.

        Without exact times a directory may be told, or not be told, for the sake of its time alone.
        """
        if not self.store.capabilities.exact_times:
            before, after = oracle.coarse(before), oracle.coarse(after)
            expected = oracle.changes(before, after)
            idle = {("modified", os.fsdecode(path)) for path, entry in after.items() if entry.type == "directory"}
            idle.difference_update(expected)
            found = [change for change in found if change not in idle or change[1] == "."]
        else:
            expected = oracle.changes(before, after)
        oracle.assert_changes(found, expected, what=what)

    def scan(self, key: str) -> oracle.Tree:
        """Read the whole tree of a snapshot."""
        with self.mounted(key) as root:
            return oracle.scan(root)

    def grow(self, *layers: Edit | Sequence[Edit], parent: str | None = None, name: str = "layer") -> list[str]:
        """Stack one layer on the other, comparing tree and changes of each before and after its commit.

        :param layers: the edits of each layer. :param parent: below the first; the flat directory has its tree.
        :param name: start of the layers' keys.
        :returns: the keys, lowest first.
        """
        keys: list[str] = []
        for edits in layers:
            key, active = f"{name}-{len(keys) + 1}", f"{name}-{len(keys) + 1}-active"
            before = oracle.scan(self.flat) if parent is not None else {}
            self.store.prepare(active, parent)
            self.edit(active, *([edits] if callable(edits) else edits), restart=parent is None)
            after = oracle.scan(self.flat)
            self.assert_changes(self.changes(active), before, after, what=f"changes of {active}")
            self.store.commit(key, active)
            self.assert_changes(self.changes(key), before, after, what=f"changes of {key} once committed")
            if keys[1:]:
                self._look_further(key, keys[-2])
            self.look(key)
            self.round_trip(key, parent)
            keys.append(key)
            parent = key
        return keys

    def _look_further(self, key: str, base: str) -> None:
        """Compare what changed over two layers at once; in the upper one of them things may be as they were."""
        expected = oracle.changes(self.scan(base), self.scan(key))
        oracle.assert_changes(self.changes(key, base), expected, what=f"changes of {key} from {base}")

    def round_trip(self, key: str, parent: str | None) -> None:
        """Write the layer as an archive, apply that to another child of the parent, and compare the two."""
        from cowstore.errors import InvalidLayer

        archive = io.BytesIO()
        try:
            self.store.export_layer(key, archive)
        except InvalidLayer:
            # Names that layers use for themselves are in no archive.
            return
        archive.seek(0)
        applied = f"{key}-applied"
        self.store.prepare(applied, parent)
        self.store.apply_layer(applied, archive)
        trees = [
            {path: entry for path, entry in self.scan(which).items() if entry.type != "socket"}
            for which in (key, applied)
        ]
        # Neither is in an archive: the root's own time, and what nobody listens on any more.
        trees[1][b"."] = replace(trees[1][b"."], mtime_ns=trees[0][b"."].mtime_ns)
        self.assert_same(trees[0], trees[1], what=f"the archive of {key}, applied")
        self.store.remove(applied)

    def look(self, key: str, expected: str | None = None) -> None:
        """Compare a committed snapshot, through a view of it, with the flat directory or with *expected*."""
        self._stages += 1
        view = f"look-{self._stages}"
        self.store.view(view, key)
        try:
            self.same(view, expected)
        finally:
            self.store.remove(view)

    def changes(self, key: str, base: str | None = None) -> list[tuple[str, str]]:
        """List the changes of a snapshot as pairs of kind and path."""
        return [(str(change.kind), change.path) for change in self.store.changes(key, base)]

    def listed(self) -> set[str]:
        """List the keys in the store."""
        return {snapshot.key for snapshot in self.store.walk()}

    def infos(self) -> dict[str, Snapshot]:
        """List the snapshots by key."""
        return {snapshot.key: snapshot for snapshot in self.store.walk()}

    def clean(self) -> None:
        """Assert that the store's own check finds nothing, and that no mount of the store is left."""
        findings = self.store.check()
        assert not findings, f"check found: {findings}"
        left = leaks.mounts_below(self.root)
        assert not left, f"mounts are left below the store: {left}"

    def empty(self) -> None:
        """Remove all snapshots, children first, and assert that the store is as clean as a new one."""
        left = {snapshot.key: snapshot.parent for snapshot in self.store.walk()}
        while left:
            parents = set(left.values())
            leaves = [key for key in left if key not in parents]
            assert leaves, f"snapshots are their own ancestors: {left}"
            for key in leaves:
                self.store.remove(key)
                del left[key]
        self.clean()

    def destroy(self) -> None:
        """Assert that the store is clean, and take it away."""
        if not os.path.exists(self.root):
            return
        if self._store is None:
            self._store = self.factory.open(self.root)
        self.clean()
        self._store.destroy()
        self._store = None
        left = os.listdir(self.root) if os.path.isdir(self.root) else []
        assert not left, f"destroy left in the store's directory: {left}"

    def abandon(self) -> None:
        """Let go of everything after a failure, as far as it goes."""
        with suppress(Exception):
            self.shut()
        with suppress(Exception), self.factory.open(self.root, create=False) as store:
            store.destroy()

    def discard(self) -> None:
        """Remove the case's directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def is_root() -> bool:
    """Tell whether this is root, and every id is at its disposal: in a user's own namespace it has few."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def run(case: Case, factory: Factory) -> None:
    """Run one case on a fresh store, and assert afterwards that the store is clean and nothing is left behind.

    :raises AssertionError: the driver or the store does not keep the law.
    :raises NotApplicable: the case asks for what is not there.
    """
    if case.privileged and not is_root():
        raise NotApplicable("only root can ask this")
    directories = (factory.directory,)
    before = leaks.held(directories)
    ground = Ground(factory, case.name)
    try:
        for flag in case.needs:
            if not getattr(ground.store.status().capabilities, flag):
                raise NotApplicable(f"the {factory.driver} driver does not claim {flag}")
        case.function(ground)
        ground.destroy()
    except BaseException:
        ground.abandon()
        raise
    finally:
        ground.discard()
    leaks.assert_nothing_since(before, directories)
