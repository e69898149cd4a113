"""From a send stream to the paths that may differ: the stream's renames and links played on names alone.

A command names its file by the path it has at that moment of applying the stream, often a passing one. So the tree is
played: every node knows where it lay in the old tree (its origin), a node that no command has named is not there, and
what is left over says which paths of the two trees have to be looked at. The answer errs on the side of more: whoever
looks compares both sides.
"""

from __future__ import annotations

from cowstore.drivers.btrfs.sendstream import Attribute, Command, StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

_MADE = frozenset({Command.MKFILE, Command.MKDIR, Command.MKNOD, Command.MKFIFO, Command.MKSOCK, Command.SYMLINK})
_BEGINS = frozenset({Command.SUBVOL, Command.SNAPSHOT})
_GONE = frozenset({Command.UNLINK, Command.RMDIR})


class _Node:
    """A name at this moment: where it lay in the old tree (None: nowhere), and its names that some command touched."""

    __slots__ = ("children", "origin", "touched")

    def __init__(self, origin: bytes | None) -> None:
        self.origin = origin
        self.children: dict[bytes, _Node | None] | None = None
        self.touched = False


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


class Touched:
    """The tree as the commands seen so far have left it."""

    def __init__(self) -> None:
        self._root = _Node(b"")
        self._left: set[bytes] = set()
        self.count = 0
        """How many nodes were made; about 300 bytes each."""

    def play(self, commands: Iterable[tuple[Command, Mapping[int, bytes]]]) -> None:
        """Apply all the commands.

        :raises StreamError: one names a path that cannot be there.
        """
        for command, attributes in commands:
            self.apply(command, attributes)

    def apply(self, command: Command, attributes: Mapping[int, bytes]) -> None:
        """Apply one command.

        :raises StreamError: it names a path that cannot be there.
        """
        if command in _BEGINS:
            return
        try:
            path = attributes[Attribute.PATH]
            if command in _MADE:
                self._put(path, self._new(None))
            elif command is Command.RENAME:
                self._put(attributes[Attribute.PATH_TO], self._take(path))
            elif command is Command.LINK:
                # The old name is another name of the same file: its number of links changes with it.
                self._find(attributes[Attribute.PATH_LINK]).touched = True
                self._put(path, self._new(None))
            elif command in _GONE:
                self._take(path)
            else:
                self._find(path).touched = True
        except KeyError as error:
            raise StreamError(f"the send stream's {command.name} lacks attribute {error}") from None

    def paths(self) -> tuple[set[bytes], set[bytes]]:
        """Return the paths to look at by themselves, and those to look at with everything below them.

        Paths are relative, without a leading slash; the root is empty.
        """
        alone: set[bytes] = set()
        whole = set(self._left)
        stack: list[tuple[bytes, _Node]] = [(b"", self._root)]
        while stack:
            path, node = stack.pop()
            if node.origin is not None and node.origin != path:
                whole.add(path)
            if node.touched:
                alone.add(path)
            for name, child in (node.children or {}).items():
                if child is not None:
                    stack.append((_join(path, name), child))
        return alone, whole

    def _new(self, origin: bytes | None) -> _Node:
        self.count += 1
        return _Node(origin)

    def _child(self, node: _Node, name: bytes, path: bytes) -> _Node:
        """Return the node called *name* in *node*, made now if the old tree may have it."""
        if node.children is None:
            node.children = {}
        child = node.children.get(name, node)
        if child is node:
            if node.origin is None:
                raise StreamError(f"the send stream names {path!r}, which is not there")
            child = node.children[name] = self._new(_join(node.origin, name))
        if child is None:
            raise StreamError(f"the send stream names {path!r}, which is gone")
        return child

    def _find(self, path: bytes) -> _Node:
        node = self._root
        for name in path.split(b"/") if path else ():
            node = self._child(node, name, path)
        return node

    def _take(self, path: bytes) -> _Node:
        """Take the node off its name; the place it had in the old tree has to be looked at."""
        directory, _, name = path.rpartition(b"/")
        parent = self._find(directory)
        node = self._child(parent, name, path)
        assert parent.children is not None
        parent.children[name] = None
        if node.origin is not None:
            self._left.add(node.origin)
        return node

    def _put(self, path: bytes, node: _Node) -> None:
        directory, _, name = path.rpartition(b"/")
        parent = self._find(directory)
        if parent.children is None:
            parent.children = {}
        parent.children[name] = node
        node.touched = True


def outermost(paths: Iterable[bytes]) -> list[bytes]:
    """Return, sorted, those of *paths* that lie below no other of them."""
    found: list[bytes] = []
    # With a slash at the end, what lies below a path follows it at once: no other byte comes between.
    for path in sorted(_join(path, b"") for path in set(paths)):
        if not found or not path.startswith(found[-1]):
            found.append(path)
    return [path[:-1] for path in found]


def below(path: bytes, directories: Container[bytes]) -> bool:
    """Tell whether *path* is, or lies below, one of the *directories*."""
    return path in directories or any(one in directories for one in ancestors(path))


def ancestors(path: bytes) -> Iterator[bytes]:
    """Yield the directories above *path*, the nearest first and the root, which is empty, last."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path
