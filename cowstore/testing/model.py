"""A model of a store: plain directories for trees, a dictionary for the catalog; random scripts are played on both.

A :class:`Player` does each verb on the store and on the model and asserts that both agree: in what they return, in the
class of what they raise, in trees and in changes. :func:`play` plays a script made from a seed; the same seed makes the
same script for every driver. A property-testing tool can call the player's verbs itself and shrink what fails.
"""

from __future__ import annotations

import io
import os
import random
import stat
from dataclasses import dataclass, field

from cowstore.errors import AlreadyExists, Busy, CowstoreError, HasChildren, NotFound, WrongKind
from cowstore.testing import oracle
from cowstore.testing._case import Factory, Ground
from cowstore.testing.edits import Editor, attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore.results import Usage

KEYS = ("a", "b", "c", "d", "e", "f")
"""Keys a script chooses from."""

PATHS = ("x", "y", "z", "x/x", "x/y", "y/x", "y/z", "x/x/x", "x/x/y", "n\xe9", "w.\udcff")
"""Paths a script chooses from: few, so that edits meet."""

IN_PLACE = (
    "write",
    "append",
    "write_at",
    "truncate",
    "chmod",
    "chown",
    "setxattr",
    "utime",
    "touch_back",
    "link",
    "move",
)
"""Edits that make a layered file system copy a file up."""

EDITS = (*IN_PLACE, "replace", "mkdir", "remove", "symlink", "fifo", "device", "sparse", "socket", "removexattr")
"""All edits."""


@dataclass(slots=True)
class Known:
    """What the model knows of one snapshot.

    :ivar tree: plain directory with its tree. :ivar linked: names that are hard links in the parent's tree.
    """

    kind: str
    parent: str | None
    tree: str
    labels: dict[str, str] = field(default_factory=dict)
    linked: frozenset[bytes] = frozenset()


class Player:
    """Plays verbs on a store and on the model.

    :ivar script: what was played, as lines of Python. :ivar layers: digests of the layers that were committed.
    """

    def __init__(self, factory: Factory) -> None:
        self.ground = Ground(factory, "model")
        self.model: dict[str, Known] = {}
        self.script: list[str] = []
        self.layers: list[str] = []
        self._trees = 0
        self._round = 1

    def close(self, *, failed: bool = False) -> None:
        """Destroy the store, asserting that it is clean unless the script *failed*."""
        try:
            if not failed:
                self.ground.destroy()
        finally:
            self.ground.abandon()
            self.ground.discard()

    def __str__(self) -> str:
        return "\n".join(self.script)

    # Verbs of the store.

    def _both(self, line: str, expected: type[CowstoreError] | None, verb: Callable[[], object]) -> bool:
        """Do *verb* on the store and compare what it raises; tell whether it was done."""
        self.script.append(line)
        try:
            verb()
        except CowstoreError as error:
            if expected is None or type(error) is not expected:
                wanted = "nothing" if expected is None else expected.__name__
                raise AssertionError(f"{line}: expected {wanted}, got {type(error).__name__}: {error}") from error
            return False
        assert expected is None, f"{line}: expected {expected.__name__}, but it was done"
        return True

    def _making(self, key: str, parent: str | None) -> type[CowstoreError] | None:
        if key in self.model:
            return AlreadyExists
        if parent is not None and parent not in self.model:
            return NotFound
        if parent is not None and self.model[parent].kind != "committed":
            return WrongKind
        return None

    def _new_tree(self, source: str | None) -> str:
        self._trees += 1
        path = self.ground.scratch(f"tree-{self._trees}")
        if source is not None:
            oracle.copy(source, path)
        return path

    def _linked(self, parent: str | None) -> frozenset[bytes]:
        if parent is None:
            return frozenset()
        return frozenset(path for path, entry in oracle.scan(self.model[parent].tree).items() if len(entry.links) > 1)

    def prepare(self, key: str, parent: str | None) -> None:
        """Play prepare."""
        expected = self._making(key, parent)
        line = f"store.prepare({key!r}, {parent!r})"
        if self._both(line, expected, lambda: self.ground.store.prepare(key, parent)):
            tree = self._new_tree(None if parent is None else self.model[parent].tree)
            self.model[key] = Known("active", parent, tree, linked=self._linked(parent))
            if parent is None:
                with self.ground.mounted(key) as root:
                    Editor(root)
                Editor(tree)
            self._same(key)

    def view(self, key: str, parent: str) -> None:
        """Play view."""
        expected = self._making(key, parent)
        if self._both(f"store.view({key!r}, {parent!r})", expected, lambda: self.ground.store.view(key, parent)):
            self.model[key] = Known("view", parent, self.model[parent].tree)
            self._same(key)

    def commit(self, name: str, key: str) -> None:
        """Play commit."""
        known = self.model.get(key)
        expected: type[CowstoreError] | None = None
        if known is None:
            expected = NotFound
        elif known.kind != "active":
            expected = WrongKind
        elif name in self.model:
            expected = AlreadyExists
        if self._both(f"store.commit({name!r}, {key!r})", expected, lambda: self.ground.store.commit(name, key)):
            assert known is not None
            del self.model[key]
            self.model[name] = Known("committed", known.parent, known.tree)
            self._same(name)
            self.changes(name, None)
            # TA-42: whatever the driver, the same edits are the same bytes.
            self.layers.append(self.ground.store.export_layer(name, io.BytesIO()).diff_id)

    def remove(self, key: str) -> None:
        """Play remove."""
        expected: type[CowstoreError] | None = None
        if key not in self.model:
            expected = NotFound
        elif any(known.parent == key for known in self.model.values()):
            expected = HasChildren
        if self._both(f"store.remove({key!r})", expected, lambda: self.ground.store.remove(key)):
            del self.model[key]

    def update(self, key: str, labels: dict[str, str]) -> None:
        """Play update."""
        expected = None if key in self.model else NotFound
        line = f"store.update({key!r}, {labels!r})"
        if self._both(line, expected, lambda: self.ground.store.update(key, labels)):
            self.model[key].labels = dict(labels)

    def import_directory(self, name: str, source: str) -> None:
        """Play import_directory, of the plain tree of the snapshot *source*."""
        if source not in self.model:
            return
        tree = self.model[source].tree
        expected = AlreadyExists if name in self.model else None
        line = f"store.import_directory(<tree of {source!r}>, name={name!r})"
        if self._both(line, expected, lambda: self.ground.store.import_directory(tree, name=name)):
            self.model[name] = Known("committed", None, self._new_tree(tree))
            self._same(name)

    def changes(self, key: str, base: str | None) -> None:
        """Play changes, from the parent or from *base*."""
        known = self.model.get(key)
        if known is None or (base is not None and base not in self.model):
            self._both(f"store.changes({key!r}, {base!r})", NotFound, lambda: self.ground.changes(key, base))
            return
        line = f"store.changes({key!r}, {base!r})"
        self.script.append(line)
        below = base if base is not None else known.parent
        lower = oracle.scan(self.model[below].tree) if below is not None else {}
        found = self.ground.changes(key, base)
        self.ground.assert_changes(found, lower, oracle.scan(known.tree), what=line)

    def squash(self, name: str, key: str, base: str | None) -> None:
        """Play squash: one layer of a whole chain, or of what *key* has and *base* has not."""
        known = self.model.get(key)
        expected: type[CowstoreError] | None = NotFound
        if known is not None:
            expected = self._making(name, base) if known.kind == "committed" else WrongKind
        line = f"store.squash({name!r}, {key!r}, {base!r})"
        if self._both(line, expected, lambda: self.ground.store.squash(name, key, base)):
            assert known is not None
            tree = self._new_tree(known.tree)
            with self.ground.mounted(name) as root:
                _as_archived(tree, os.lstat(root).st_mtime_ns)
            self.model[name] = Known("committed", base, tree, labels=dict(known.labels))
            self._same(name)

    def round_trip(self, key: str) -> None:
        """Play export_layer, and apply_layer to another child of the parent."""
        known = self.model.get(key)
        if known is not None:
            self.script.append(f"<export_layer({key!r}), apply_layer to a child of {known.parent!r}>")
            self.ground.round_trip(key, known.parent)

    def usage(self, key: str) -> None:
        """Play usage, twice: it is never negative, and looking changes nothing."""
        found: list[Usage] = []
        expected = None if key in self.model else NotFound
        for _ in range(2):
            self._both(f"store.usage({key!r})", expected, lambda: found.append(self.ground.store.usage(key)))
        assert found[:1] == found[1:], f"usage of {key}: {found}"
        assert all(usage.size_bytes >= 0 for usage in found), f"usage of {key}: {found}"

    def mounts(self, key: str) -> None:
        """Play mounts, a removal that is refused meanwhile, and release."""
        expected = None if key in self.model else NotFound
        if self._both(f"store.mounts({key!r})", expected, lambda: self.ground.store.mounts(key)):
            children = any(other.parent == key for other in self.model.values())
            self._both(
                f"store.remove({key!r})", HasChildren if children else Busy, lambda: self.ground.store.remove(key)
            )
            self._both(f"store.release({key!r})", None, lambda: self.ground.store.release(key))

    def cleanup(self) -> None:
        """Play cleanup: nobody is dead, and so nothing goes."""
        self.script.append("store.cleanup()")
        removed = self.ground.store.cleanup()
        assert removed == (), f"cleanup removed {removed}"

    def busy(self, key: str) -> None:
        """Mount, and play the verbs that are refused meanwhile."""
        known = self.model.get(key)
        if known is None:
            return
        with self.ground.mounted(key):
            children = any(other.parent == key for other in self.model.values())
            expected: tuple[type[CowstoreError], ...] = (Busy, HasChildren) if children else (Busy,)
            self.script.append(f"with store.mounted({key!r}): store.remove({key!r})")
            try:
                self.ground.store.remove(key)
            except expected:
                pass
            else:
                raise AssertionError(f"{key} was removed while mounted")
        self._same(key)

    def reopen(self) -> None:
        """Close and open the store."""
        self.script.append("store.close(); store = open(...)")
        self.ground.reopen()
        self.look()

    def look(self) -> None:
        """Compare the catalog with the model, and let the store check itself."""
        found = {
            snapshot.key: (str(snapshot.kind), snapshot.parent, dict(snapshot.labels))
            for snapshot in self.ground.store.walk()
        }
        expected = {key: (known.kind, known.parent, known.labels) for key, known in self.model.items()}
        assert found == expected, f"the catalog says {found}, expected {expected}"
        self.ground.clean()

    def _same(self, key: str) -> None:
        self.ground.same(key, self.model[key].tree)

    # Edits.

    def edit(self, key: str, name: str, path: str, other: str, number: int) -> None:
        """Play one edit on the mounted snapshot and on the plain tree; what it raises must be the same, too.

        :param other: second path, for edits that need one. :param number: decides on what else the edit needs.
        """
        known = self.model.get(key)
        if known is None or known.kind != "active" or self._is_left_out(known, name, path, other, number):
            return
        self.script.append(f"edit({key!r}, {name!r}, {path!r}, {other!r}, {number})")
        self._round += 1
        with self.ground.mounted(key) as root:
            said = [attempt(Editor(top, round_=self._round), name, path, other, number) for top in (known.tree, root)]
            assert said[0] == said[1], f"{self.script[-1]}: a plain directory says {said[0]}, the snapshot {said[1]}"
            after = oracle.scan(known.tree)
            self.ground.assert_same(after, oracle.scan(root), what=f"{key} after {self.script[-1]}")
        self._same(key)

    def _is_left_out(self, known: Known, name: str, path: str, other: str, number: int) -> bool:
        """Tell whether an edit is one that drivers are known and allowed to differ in.

        A file system of layers splits a name from the other names of its file when the file comes from below and is
        changed through that name. Opening a FIFO waits. A directory is not renamed over another by what stands for
        rename(2) where the driver has none. Where attributes cannot be removed, empty ones are not kept either.
        """
        empty = name == "removexattr" or (name == "setxattr" and number % 50 == 0)
        if empty and not self.ground.store.capabilities.xattr_removal:
            return True
        if path == "." and name not in {"chmod", "chown", "setxattr", "removexattr", "utime"}:
            return True
        full = os.path.join(known.tree, path)
        opens = name in {"write", "append", "write_at", "truncate", "touch_back"}
        if opens and os.path.lexists(full) and not stat.S_ISREG(os.lstat(full).st_mode):
            return True
        if name == "move" and os.path.lexists(os.path.join(known.tree, other)):
            return True
        if name not in IN_PLACE:
            return False
        touched = os.fsencode(path)
        return any(link == touched or link.startswith(touched + b"/") for link in known.linked)


def _as_archived(tree: str, mtime_ns: int) -> None:
    """Take from a tree what no archive holds: sockets, and the time of its root."""
    for path, entry in oracle.scan(tree).items():
        if entry.type == "socket":
            full = os.path.join(os.fsencode(tree), path)
            above = os.lstat(os.path.dirname(full)).st_mtime_ns
            os.unlink(full)
            os.utime(os.path.dirname(full), ns=(above, above))
    os.utime(tree, ns=(mtime_ns, mtime_ns))


def step(player: Player, chance: random.Random) -> None:
    """Play one verb or edit, chosen by *chance*."""
    key, other = chance.choice(KEYS), chance.choice(KEYS)
    active = [name for name, known in player.model.items() if known.kind == "active"]
    committed = [name for name, known in player.model.items() if known.kind == "committed"]
    verb = chance.random()
    if verb < 0.5 and active:
        key = chance.choice(active)
        there = [os.fsdecode(name) for name in oracle.scan(player.model[key].tree)]
        path = chance.choice(there if chance.random() < 0.7 else PATHS)
        player.edit(key, chance.choice(EDITS), path, chance.choice(PATHS), chance.randrange(100_000))
    elif verb < 0.65:
        player.prepare(key, chance.choice([None, other, *committed]))
    elif verb < 0.77:
        player.commit(key, chance.choice([other, *active]))
    elif verb < 0.83:
        player.remove(key)
    elif verb < 0.87:
        player.view(key, chance.choice([other, *committed]))
    elif verb < 0.92:
        player.changes(key, chance.choice([None, other]))
    elif verb < 0.94:
        player.update(key, {"n": str(chance.randrange(10))})
    elif verb < 0.96:
        player.import_directory(key, other)
    elif verb < 0.98:
        player.busy(key)
    else:
        player.reopen()


def play(factory: Factory, seed: int, *, steps: int = 60) -> list[str]:
    """Play the script that *seed* makes.

    :returns: the digests of the layers it commits, which are the same for every driver.
    :raises AssertionError: store and model differ; the script is in its notes.
    """
    player = Player(factory)
    chance = random.Random(seed)  # noqa: S311 - the same script each time is the point
    failed = True
    try:
        for _ in range(steps):
            step(player, chance)
        player.look()
        failed = False
    except BaseException as error:
        error.add_note(f"seed {seed}, script:\n{player}")
        raise
    finally:
        player.close(failed=failed)
    return player.layers
