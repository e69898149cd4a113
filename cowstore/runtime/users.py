"""Steps that make a process somebody: by number, or by the name that the root's own files know, as they are now."""

from __future__ import annotations

import errno
import os
import signal
import stat

from cowstore._linux import prctl
from cowstore._linux._call import oserror
from cowstore._linux.capabilities import Cap, capget
from cowstore._linux.files import Resolve, openat2
from cowstore.runtime.messages import LAUNCHER_FAILED
from cowstore.runtime.program import ProgramError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.inside import Inside

_MOST_BYTES = 16 << 20
"""Of a passwd or group file: an image must not fill our memory."""
_MAX_ID = 2**32 - 2


def become_user(inside: Inside, *, user: str) -> None:
    """Take on the ids of a user, and know their home.

    :param user: ``NAME``, ``NUMBER``, or either followed by ``:GROUP``. A number needs no entry in any file; its group
        is then 0. The further groups are those of the group file, unless a group is named.
    :raises ProgramError: the root does not know the name.
    """
    uid, gid, groups, home = resolve(inside, user)
    inside.home = home
    _give_streams(uid, terminal=inside.terminal is not None)
    try:
        _take_on(uid, gid, groups)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ProgramError(
            LAUNCHER_FAILED,
            f"cannot be user {uid} with group {gid}: this user namespace has no such id; for an ordinary user that "
            "needs newuidmap (Debian's package uidmap) and ranges in /etc/subuid and /etc/subgid",
        ) from error
    # The kernel is asked to end this process with its parent; a change of user undid that where it was asked before.
    prctl.set_pdeathsig(signal.SIGKILL)


def _take_on(uid: int, gid: int, groups: list[int]) -> None:
    try:
        os.setgroups(groups)
    except PermissionError:
        # In a user namespace of one id not even its root may; the groups there are stay those of who made it.
        if not capget()[0] & 1 << Cap.SETGID:
            raise
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def resolve(inside: Inside, user: str) -> tuple[int, int, list[int], str]:
    """Return uid, gid, further groups and home.

    :raises ProgramError: the root does not know the name.
    """
    if user == "0:0":
        return 0, 0, [0], "/root"
    name, colon, group = user.partition(":")
    entry = _entry(inside, name)
    if entry is not None:
        uid, gid, home = _number(entry[2]), _number(entry[3]), os.fsdecode(entry[5]) or "/"
        known = entry[0]
    else:
        uid, gid, home, known = _number(name.encode()), 0, "/", b""
    if uid is None or gid is None:
        raise _unknown("user", name, "/etc/passwd")
    if colon:
        gid = _group(inside, group)
        return uid, gid, [gid], home
    return uid, gid, _groups_of(inside, known, gid), home


def _unknown(what: str, name: str, file: str) -> ProgramError:
    return ProgramError(
        LAUNCHER_FAILED, f"there is no {what} {name!r} in {file} of the root; give a number, or a name that is there"
    )


def _number(text: bytes) -> int | None:
    if not text.isdigit() or len(text) > 10 or int(text) > _MAX_ID:
        return None
    return int(text)


def _lines(inside: Inside, path: str, fields: int) -> list[list[bytes]]:
    """Read a file of the root; an absent one has no lines.

    :raises OSError: it is no plain file, or too large.
    """
    try:
        fd = openat2(
            inside.root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0, Resolve.IN_ROOT | Resolve.NO_MAGICLINKS
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
    with open(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            raise oserror("openat2(2)", path, detail="no plain file of a reasonable size", code=errno.EINVAL)
        content = file.read(_MOST_BYTES) or b""
    rows = [line.split(b":") for line in content.splitlines()]
    return [row for row in rows if len(row) >= fields and row[0] and not row[0].startswith(b"#")]


def _entry(inside: Inside, name: str) -> list[bytes] | None:
    """Find a user, a name before a number, as getpwnam(3) and then getpwuid(3)."""
    wanted = os.fsencode(name)
    rows = _lines(inside, "/etc/passwd", 6)
    for row in rows:
        if row[0] == wanted:
            return row
    number = _number(wanted)
    return next((row for row in rows if number is not None and _number(row[2]) == number), None)


def _group(inside: Inside, name: str) -> int:
    wanted = os.fsencode(name)
    for row in _lines(inside, "/etc/group", 3):
        if row[0] == wanted:
            number = _number(row[2])
            if number is not None:
                return number
    number = _number(wanted)
    if number is None:
        raise _unknown("group", name, "/etc/group")
    return number


def _groups_of(inside: Inside, user: bytes, gid: int) -> list[int]:
    found = {gid}
    if user:
        for row in _lines(inside, "/etc/group", 4):
            number = _number(row[2])
            if number is not None and user in row[3].split(b","):
                found.add(number)
    return sorted(found)


def _give_streams(uid: int, *, terminal: bool) -> None:
    """Make the pipes of the standard streams, or our own terminal, the user's: /dev/stdout and its like can be opened.

    A terminal of this machine's stays as it is.
    """
    for fd in (0, 1, 2):
        if terminal or stat.S_ISFIFO(os.fstat(fd).st_mode):
            try:
                os.fchown(fd, uid, -1)
            except OSError as error:
                # It belongs to somebody whom this user namespace does not know, or would have to; the latter is told
                # when the ids are taken on.
                if error.errno not in {errno.EPERM, errno.EINVAL}:
                    raise
