"""Which ids a user may have in a namespace of his own: his one, and the ranges that the administrator gave him."""

from __future__ import annotations

import os

from cowstore._frozen import frozen

SUBUID, SUBGID = "/etc/subuid", "/etc/subgid"
_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")


@frozen
class Range:
    """Ids that follow each other.

    :ivar inside: the first one as it is called inside. :ivar outside: as it is called outside. :ivar count: how many.
    """

    inside: int
    outside: int
    count: int

    def line(self) -> str:
        """Return it as a line of /proc/PID/uid_map. Source: user_namespaces(7)."""
        return f"{self.inside} {self.outside} {self.count}\n"


def name_of(uid: int) -> str:
    """Return a user's name; the number as text if he has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def granted(path: str, uid: int) -> list[tuple[int, int]]:
    """Read the ranges of a user from a file such as /etc/subuid, as pairs of first id and count.

    A file that is not there grants nothing; a line that makes no sense is passed over, as newuidmap(1) does.

    Source: subuid(5).
    """
    names = {name_of(uid), str(uid)}
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, rest = line.strip().partition(":")
                first, _, count = rest.partition(":")
                if name in names and first.isdigit() and count.isdigit() and int(count):
                    found.append((int(first), int(count)))
    except OSError:
        return []
    return found


def mapping(own: int, more: list[tuple[int, int]]) -> tuple[Range, ...]:
    """Return a map in which 0 is the user himself and the granted ids follow from 1 on."""
    made = [Range(inside=0, outside=own, count=1)]
    free = 1
    for first, count in more:
        made.append(Range(inside=free, outside=first, count=count))
        free += count
    return tuple(made)


def program(name: str) -> str | None:
    """Find a program that the administrator installed: not one that a user's PATH leads to."""
    for directory in _DIRECTORIES:
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK):
            return path
    return None


def ranges(uid: int, *, subuid: str = SUBUID, subgid: str = SUBGID) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """Return the maps of user and of group ids for a user: whole ranges where granted for both, else one id each."""
    users, groups = granted(subuid, uid), granted(subgid, uid)
    if not users or not groups or program("newuidmap") is None or program("newgidmap") is None:
        users = groups = []
    return mapping(uid, users), mapping(os.getegid(), groups)


def has_ranges() -> bool:
    """Tell whether this process's user has ids beside his own."""
    return len(ranges(os.geteuid())[0]) > 1


def how_to_get_more(uid: int) -> str:
    """Say what the administrator has to do for a user to have more than one id."""
    name = name_of(uid)
    needed = []
    if program("newuidmap") is None or program("newgidmap") is None:
        needed.append("the programs newuidmap and newgidmap (Debian's package uidmap)")
    needed += [f"a line `{name}:100000:65536` in {path}" for path in (SUBUID, SUBGID) if not granted(path, uid)]
    return "that needs " + " and ".join(needed) if needed else "the ranges of this user hold no such id"
