"""Which directory on the way to a path lets this process not pass."""

from __future__ import annotations

import os
import stat


def blocked_at(path: str) -> str | None:
    """Name the directory that stops this process on its way to *path*, whose it is, and who asks; None if none does."""
    way = "/"
    for name in os.path.abspath(path).split("/")[1:]:
        below = os.path.join(way, name)
        try:
            os.stat(below)
        except PermissionError:
            found = os.stat(way)
            owners = f"of user {_named(found.st_uid)} and group {found.st_gid}"
            return (
                f"the directory {way} (mode {stat.S_IMODE(found.st_mode):04o}, {owners}) lets user "
                f"{_named(os.geteuid())} not pass"
            )
        except OSError:
            return None
        way = below
    return None


def _named(uid: int) -> str:
    """Return a user id, with what it is outside of this user namespace where that is another."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            rows = [tuple(map(int, line.split())) for line in file]
    except (OSError, ValueError):
        return str(uid)
    for inside, outside, count in rows:
        if inside <= uid < inside + count:
            there = outside + uid - inside
            return str(uid) if there == uid else f"{uid} ({there} outside of this user namespace)"
    return f"{uid} (unknown in this user namespace)"
