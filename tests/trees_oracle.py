"""An independent, slow description of trees and of what differs between two; and random edits of them."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

BOOKKEEPING = ("trusted.overlay.", "user.overlay.")


@dataclass
class Entry:
    facts: dict[str, Any]
    file: tuple[int, int]
    children: dict[str, Entry] = field(default_factory=dict)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.facts["mode"])


def read(path: str) -> Entry:
    """Read everything there is to know of a tree."""
    found = os.lstat(path)
    facts: dict[str, Any] = {
        "mode": found.st_mode,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mtime": found.st_mtime_ns,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if not name.startswith(BOOKKEEPING)
        },
    }
    if stat.S_ISREG(found.st_mode):
        facts["content"] = Path(path).read_bytes()
    if stat.S_ISLNK(found.st_mode):
        facts["target"] = os.readlink(path)
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        facts["rdev"] = found.st_rdev
    entry = Entry(facts, (found.st_dev, found.st_ino))
    if entry.is_dir:
        for name in os.listdir(path):
            entry.children[name] = read(f"{path}/{name}")
    return entry


def flat(entry: Entry, prefix: str = "") -> dict[str, Entry]:
    found = {}
    for name, child in entry.children.items():
        found[prefix + name] = child
        found |= flat(child, f"{prefix}{name}/")
    return found


def differences(lower: Entry | None, upper: Entry) -> list[tuple[str, str]]:
    """Say what differs, by the rules and without any cleverness."""
    before = {} if lower is None else flat(lower)
    after = flat(upper)
    told: dict[str, str] = {}
    for path, entry in after.items():
        if path not in before:
            told[path] = "added"
        elif before[path].facts != entry.facts:
            told[path] = "modified"
    for path in before:
        above = path.rpartition("/")[0]
        if path not in after and (not above or (above in after and after[above].is_dir)):
            told[path] = "deleted"
    _links(before, after, told)
    for path in list(told):
        while path := path.rpartition("/")[0]:
            if path in after:
                told.setdefault(path, "modified")
    if lower is None:
        root = upper.facts
        mine: tuple[Any, ...] = (stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), {})
        if (root["mode"], root["uid"], root["gid"], root["xattrs"]) != mine:
            told["."] = "modified"
    elif {**lower.facts, "mtime": 0} != {**upper.facts, "mtime": 0}:
        told["."] = "modified"
    return sorted(((path, kind) for path, kind in told.items()), key=lambda item: os.fsencode(item[0]))


def _links(before: dict[str, Entry], after: dict[str, Entry], told: dict[str, str]) -> None:
    groups: dict[tuple[int, int], list[str]] = {}
    for path, entry in after.items():
        if not entry.is_dir:
            groups.setdefault(entry.file, []).append(path)
    rivals: dict[tuple[int, int], list[list[str]]] = {}
    for names in groups.values():
        common = [name for name in names if name in before and name not in told]
        if not common:
            continue
        files = {before[name].file for name in common}
        if len(common) < len(names) or len(files) > 1:
            told |= dict.fromkeys(common, "modified")
        else:
            rivals.setdefault(files.pop(), []).append(names)
    for file, several in rivals.items():
        several.sort(key=lambda names: min(map(os.fsencode, names)))
        same = [names for names in several if after[names[0]].file[1] == file[1]]
        stays = (same or several)[0]
        for names in several:
            if names is not stays:
                told |= dict.fromkeys(names, "modified")


def sync(lower: Entry | None, upper: Entry) -> bool:
    return not differences(lower, upper)


# Random edits.

NAMES = ["a", "a-b", "b", "\udcff:,\\\n"]
TIMES = [1_000_000_000_000_000_000, 1_000_000_000_000_000_001, 1_500_000_000_123_456_789]

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map("/".join)
edits = st.one_of(
    st.tuples(st.just("write"), paths, st.sampled_from([b"", b"aaaa", b"bbbb", b"longer"]), st.sampled_from(TIMES)),
    st.tuples(st.just("overwrite"), paths, st.sampled_from([b"aaaa", b"bbbb"]), st.sampled_from(TIMES)),
    st.tuples(st.just("mkdir"), paths, st.sampled_from([0o755, 0o711]), st.sampled_from(TIMES)),
    st.tuples(st.just("remove"), paths),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("symlink"), paths, st.sampled_from(["a", "b", "../a"])),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o600, 0o644, 0o755])),
    st.tuples(st.just("xattr"), paths, st.sampled_from([b"1", b"2"])),
    st.tuples(st.just("fifo"), paths),
    st.tuples(st.just("touch"), paths, st.sampled_from(TIMES)),
    st.tuples(st.just("recreate"), paths),
    st.tuples(st.just("copy"), paths),
)


def populate(root: str) -> None:
    """Make a first tree, dense enough for random edits to meet: directories, and files with several names."""
    for above in ("", "a/", "a-b/"):
        for name in NAMES[:2] if not above else NAMES:
            if not above:
                _mkdir(root, f"{root}/{name}", 0o755, TIMES[0])
            elif name != "b":
                _write(root, f"{root}/{above}{name}", b"aaaa", TIMES[0])
    os.link(f"{root}/a/a", f"{root}/a-b/b")
    os.link(f"{root}/a/a", f"{root}/a/b")
    os.link(f"{root}/a-b/a", f"{root}/b")


def apply(root: str, edit: tuple[Any, ...]) -> None:
    """Do one edit below *root*; one that cannot be done does nothing."""
    verb, name, *rest = edit
    path = f"{root}/{name}"
    try:
        _VERBS[verb](root, path, *rest)
    except (OSError, shutil.Error):
        pass


def _write(root: str, path: str, content: bytes, time: int) -> None:
    Path(path + ".tmp").write_bytes(content)
    os.utime(path + ".tmp", ns=(time, time))
    try:
        os.rename(path + ".tmp", path)
    except OSError:
        os.unlink(path + ".tmp")


def _overwrite(root: str, path: str, content: bytes, time: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK)
    os.write(fd, content)
    os.close(fd)
    os.utime(path, ns=(time, time))


def _mkdir(root: str, path: str, mode: int, time: int) -> None:
    os.mkdir(path)
    os.chmod(path, mode)
    os.utime(path, ns=(time, time))


def _remove(root: str, path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _recreate(root: str, path: str) -> None:
    """Remove a directory and make it anew, with some of what it had."""
    found = os.lstat(path)
    names = os.listdir(path)
    _remove(root, path)
    os.mkdir(path)
    for name in names[1:]:
        Path(f"{path}/{name}").write_bytes(b"aaaa")
        os.utime(f"{path}/{name}", ns=(TIMES[0], TIMES[0]))
    os.chmod(path, stat.S_IMODE(found.st_mode))
    os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))


def _copy(root: str, path: str) -> None:
    """Replace a file by a copy that differs in nothing."""
    if os.path.islink(path) or not os.path.isfile(path):
        return
    shutil.copy2(path, path + ".tmp")
    found = os.stat(path)
    os.chown(path + ".tmp", found.st_uid, found.st_gid)
    os.utime(path + ".tmp", ns=(found.st_atime_ns, found.st_mtime_ns))
    os.rename(path + ".tmp", path)


def _symlink(root: str, path: str, target: str) -> None:
    os.symlink(target, path)
    os.utime(path, ns=(TIMES[0], TIMES[0]), follow_symlinks=False)


def _chmod(root: str, path: str, mode: int) -> None:
    if not os.path.islink(path):
        # An ordinary user must be able to go on in a directory.
        os.chmod(path, mode | 0o700 if os.path.isdir(path) else mode)


def _xattr(root: str, path: str, value: bytes) -> None:
    if not os.path.islink(path):
        os.setxattr(path, "user.k", value)


_VERBS: dict[str, Any] = {
    "write": _write,
    "overwrite": _overwrite,
    "mkdir": _mkdir,
    "remove": _remove,
    "rename": lambda root, path, to: os.rename(path, f"{root}/{to}"),
    "link": lambda root, path, to: os.link(path, f"{root}/{to}", follow_symlinks=False),
    "symlink": _symlink,
    "chmod": _chmod,
    "xattr": _xattr,
    "fifo": lambda root, path: os.mkfifo(path),
    "touch": lambda root, path, time: os.utime(path, ns=(time, time), follow_symlinks=False),
    "recreate": _recreate,
    "copy": _copy,
}
