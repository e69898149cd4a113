"""The oracle: what a tree is, whether two are the same, and what changed from one to the other.

It is written without any of the library's own code, so that both are not wrong in the same way. It reads whole trees
into memory, which is fine for the trees of tests.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, fields, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Tree = dict[bytes, "Entry"]
"""Entries by path relative to the root, ``b"."`` for the root itself."""

_FOREIGN_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"security.selinux", b"trusted.SGI_ACL_", b"btrfs.")
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Everything about one path that a copy-on-write store must keep.

    :ivar links: names of the same file within the tree, itself included. :ivar content: bytes of a regular file, target
        of a symbolic link, empty otherwise.
    """

    type: str
    mode: int
    uid: int
    gid: int
    device: int
    size: int
    mtime_ns: int
    content: bytes
    links: tuple[bytes, ...]
    xattrs: Mapping[bytes, bytes]


_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def scan(root: str | bytes | os.PathLike[str]) -> Tree:
    """Read the whole tree below *root*, by names of any bytes, following nothing.

    :raises OSError: something cannot be read.
    """
    top = os.fsencode(root)
    found: list[tuple[bytes, os.stat_result]] = []
    _walk(top, b"", found)
    names: dict[tuple[int, int], list[bytes]] = {}
    for path, status in found:
        if not stat.S_ISDIR(status.st_mode):
            names.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {path: _entry(os.path.join(top, path), path, status, names) for path, status in found}


def _walk(top: bytes, relative: bytes, found: list[tuple[bytes, os.stat_result]]) -> None:
    here = os.path.join(top, relative) if relative else top
    found.append((relative or b".", os.lstat(here)))
    with os.scandir(here) as listing:
        entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing)
    for name, is_directory in entries:
        below = os.path.join(relative, name) if relative else name
        if is_directory:
            _walk(top, below, found)
        else:
            found.append((below, os.lstat(os.path.join(top, below))))


def _entry(full: bytes, path: bytes, status: os.stat_result, names: Mapping[tuple[int, int], list[bytes]]) -> Entry:
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    content = b""
    if kind == "file":
        with open(full, "rb") as file:
            content = file.read()
    elif kind == "symlink":
        content = os.readlink(full)
    return Entry(
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        device=status.st_rdev if "device" in kind else 0,
        size=status.st_size if kind == "file" else 0,
        mtime_ns=status.st_mtime_ns,
        content=content,
        links=tuple(sorted(names.get((status.st_dev, status.st_ino), [path]))) if kind != "directory" else (path,),
        xattrs=_xattrs(full),
    )


def _xattrs(full: bytes) -> dict[bytes, bytes]:
    try:
        names = [os.fsencode(name) for name in os.listxattr(full, follow_symlinks=False)]
    except OSError as error:
        if error.errno in {errno.ENOTSUP, errno.EPERM}:
            return {}
        raise
    kept = sorted(name for name in names if not name.startswith(_FOREIGN_XATTRS))
    return {name: os.getxattr(full, name, follow_symlinks=False) for name in kept}


def copy(source: str, target: str) -> None:
    """Copy a whole tree into the empty directory *target*: everything that :func:`scan` looks at."""
    tree = scan(source)
    made: dict[bytes, bytes] = {}
    for path in sorted(tree):
        full = os.path.join(os.fsencode(target), path)
        first = made.setdefault(tree[path].links[0], full)
        if first != full:
            os.link(first, full, follow_symlinks=False)
        elif path != b".":
            _make(full, tree[path])
    for path in sorted(tree, reverse=True):
        _dress(os.path.join(os.fsencode(target), path), tree[path])


def _make(full: bytes, entry: Entry) -> None:
    if entry.type == "directory":
        os.mkdir(full)
    elif entry.type == "symlink":
        os.symlink(entry.content, full)
    else:
        os.mknod(full, 0o600 | next(bits for bits, name in _TYPES.items() if name == entry.type), entry.device)
        if entry.type == "file":
            with open(full, "wb") as file:
                file.write(entry.content)


def _dress(full: bytes, entry: Entry) -> None:
    for name in os.listxattr(full, follow_symlinks=False):
        if os.fsencode(name) not in entry.xattrs and not name.startswith("security."):
            os.removexattr(full, name, follow_symlinks=False)
    os.chown(full, entry.uid, entry.gid, follow_symlinks=False)
    if entry.type != "symlink":
        os.chmod(full, entry.mode)
    for attribute, value in entry.xattrs.items():
        os.setxattr(full, attribute, value, follow_symlinks=False)
    os.utime(full, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def differences(expected: Tree, found: Tree, *, ignore: frozenset[str] = frozenset()) -> list[str]:
    """Name every difference, one line each; none means that the trees are the same.

    :param ignore: names of :class:`Entry` fields that need not agree.
    """
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        if path not in found:
            lines.append(f"{os.fsdecode(path)!r} ({expected[path].type}) is missing")
        elif path not in expected:
            lines.append(f"{os.fsdecode(path)!r} ({found[path].type}) should not be there")
        else:
            lines += _fields(path, expected[path], found[path], ignore)
    return lines


def _fields(path: bytes, expected: Entry, found: Entry, ignore: frozenset[str]) -> list[str]:
    lines = []
    for field in fields(Entry):
        left, right = getattr(expected, field.name), getattr(found, field.name)
        if left != right and field.name not in ignore:
            if field.name == "mode":
                left, right = oct(left), oct(right)
            lines.append(f"{os.fsdecode(path)!r} {field.name}: expected {_short(left)}, found {_short(right)}")
    return lines


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:190] + f"… ({len(text)} characters)"


def coarse(tree: Tree) -> Tree:
    """Return a tree with the times that a driver without ``exact_times`` keeps: whole seconds, none of directories."""
    return {
        path: replace(entry, mtime_ns=0 if entry.type == "directory" else entry.mtime_ns // 10**9 * 10**9)
        for path, entry in tree.items()
    }


def assert_same(
    expected: str | bytes | os.PathLike[str],
    found: str | bytes | os.PathLike[str],
    *,
    ignore: frozenset[str] = frozenset(),
    what: str = "tree",
) -> None:
    """Compare two directories completely.

    :raises AssertionError: listing the differences.
    """
    assert_same_trees(scan(expected), scan(found), ignore=ignore, what=what)


def assert_same_trees(expected: Tree, found: Tree, *, ignore: frozenset[str] = frozenset(), what: str = "tree") -> None:
    """Compare two scanned trees completely.

    :raises AssertionError: listing the differences.
    """
    lines = differences(expected, found, ignore=ignore)
    if lines:
        more = "" if len(lines) <= _SHOWN else f"\n  and {len(lines) - _SHOWN} more"
        raise AssertionError(f"{what}: {len(lines)} differences:\n  " + "\n  ".join(lines[:_SHOWN]) + more)


def changes(before: Tree, after: Tree) -> list[tuple[str, str]]:
    """Tell what ``Store.changes`` must give for the step from *before* to *after*: pairs of kind and path.

    Ancestors of a change count as modified, the root (``"."``) only if its mode, owner or attributes
    differ; of a deleted directory only the topmost is listed, and nothing of what was below a directory that became
    something else. Against nothing at all
    the root counts as modified unless it is as a fresh one.
    """
    kinds: dict[bytes, str] = {}
    for path, entry in after.items():
        old = before.get(path)
        if path == b".":
            old = _root(old, entry)
        if old is None:
            kinds[path] = "added"
        elif _differs(old, entry):
            kinds[path] = "modified"
    kinds.update(dict.fromkeys(_by_links(before, after, set(kinds)), "modified"))
    for path in before.keys() - after.keys():
        above = os.path.dirname(path) or b"."
        if above in after and after[above].type == "directory":
            kinds[path] = "deleted"
    for path in list(kinds):
        above = os.path.dirname(path)
        while above:
            kinds.setdefault(above, "modified")
            above = os.path.dirname(above)
    return [(kinds[path], os.fsdecode(path)) for path in sorted(kinds)]


def _root(old: Entry | None, new: Entry) -> Entry:
    """Return what the root is compared with: its times are not, since every name made in it changes them."""
    if old is not None:
        return replace(old, mtime_ns=new.mtime_ns)
    return replace(new, mode=0o755, uid=os.geteuid(), gid=os.getegid(), xattrs={})


def _differs(old: Entry, new: Entry) -> bool:
    return any(
        field.name != "links" and getattr(old, field.name) != getattr(new, field.name) for field in fields(Entry)
    )


def _by_links(before: Tree, after: Tree, told: set[bytes]) -> Iterator[bytes]:
    """Give the names, unchanged in themselves, that must be told for the sake of the other names of their file.

    Who replaces just the names that are told must end with the right names sharing a file: all of a file's are told if
    one is; all that were several files; and all but one of those that were one file and are several.
    """
    stays: set[tuple[bytes, ...]] = set()
    for names in sorted({entry.links for entry in after.values() if entry.type != "directory"}):
        unchanged = [name for name in names if name not in told]
        if not unchanged:
            continue
        files = {before[name].links for name in unchanged}
        if len(unchanged) < len(names) or len(files) > 1 or files <= stays:
            yield from unchanged
        else:
            stays |= files


def assert_changes(found: list[tuple[str, str]], expected: list[tuple[str, str]], *, what: str = "changes") -> None:
    """Compare two change lists.

    :raises AssertionError: listing what is missing, what is too much, and a wrong order.
    """
    if found == expected:
        return
    missing = [change for change in expected if change not in found]
    surplus = [change for change in found if change not in expected]
    raise AssertionError(
        f"{what}: missing {missing[:_SHOWN]}, not expected {surplus[:_SHOWN]}"
        if missing or surplus
        else f"{what}: wrong order or repeated: {found[:_SHOWN]}, expected {expected[:_SHOWN]}"
    )
