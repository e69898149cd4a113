"""An ordinary user on hosts that refuse: user namespaces, a full /proc, ranges of ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.tiers import need_program

if TYPE_CHECKING:
    from tests.root.rootless.conftest import User

FILTERED = """
import json, os, sys
from cowstore._linux import prctl, seccomp
from cowstore.runtime.seccomp import from_profile
rule = {"names": [sys.argv[1]], "action": "SCMP_ACT_ERRNO", "errnoRet": int(sys.argv[2])}
prctl.set_no_new_privs()
seccomp.set_mode_filter(from_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}, 0))
os.execv(sys.executable, [sys.executable, "-m", "cowstore.cli.run", "--", "true"])
"""
"""Runs the command where one system call is refused, as a security module or a container's filter does."""


def complaint(user: User, *words: str) -> str:
    """Run what must fail in one line of the launcher's, and leave nothing; returns the line."""
    done = user.run(*words)
    assert done.returncode == 125, (done.stdout, done.stderr)
    # This machine may have mounts below the root's directories, of which there is something to say.
    lines = [line for line in done.stderr.splitlines() if "is shown read-only" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("cowstore-run: ")
    return lines[0]


def test_user_namespaces_that_are_refused(user: User) -> None:
    """RT-12: by a filter, without privileges afterwards, and by their number."""
    said = complaint(user, user.python, "-c", FILTERED, "unshare", "1")
    assert "cannot make a user namespace: Operation not permitted (unshare(2)" in said
    assert "a security module, a filter of system calls" in said
    said = complaint(user, user.python, "-c", FILTERED, "mount", "13")
    assert "cannot mount in a user namespace: Permission denied" in said
    none = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --inh-caps=-all --ambient-caps=-all "$@"'
    inner = ["unshare", "--user", "--map-user=1000", "--keep-caps", "sh", "-c", none, "sh"]
    said = complaint(user, *inner, user.python, "-m", "cowstore.cli.run", "--", "true")
    assert "the sysctl user.max_user_namespaces is 0; raise it" in said


def test_a_proc_that_is_partly_covered(user: User) -> None:
    """RT-11: as in a container without privileges; the kernel shows no fuller /proc inside, and the error says so."""
    assert user.cowstore_run("--", "echo", "ran") == "ran\n"
    script = 'mount --bind /dev/null /proc/uptime && exec "$@"'
    user.before = ["--"]
    outer = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    command = user.command(user.python, "-m", "cowstore.cli.run", "--", "true")

    class Covered(type(user)):  # type: ignore[misc]
        def command(self, *words: object) -> list[str]:
            return [*outer, *command]

    user.__class__ = Covered
    said = complaint(user)
    assert "proc: Operation not permitted" in said
    assert "the /proc outside is partly covered (as in a container)" in said
    assert "unmask=ALL" in said


def test_the_maps_of_ids(user: User) -> None:
    """RT-13: one id without help, ranges with newuidmap, one again where that is missing; and all of it nested."""
    mapped = ["cat", "/proc/self/uid_map", "/proc/self/gid_map"]
    one = ["0", "65534", "1"]
    assert user.cowstore("unshare", "--", *mapped).split() == one * 2
    assert user.cowstore_run("--", *mapped).split() == one * 2
    again = [user.python, "-m", "cowstore.cli.main", "unshare", "--"]
    assert user.cowstore("unshare", "--", *again, *mapped).split() == one * 2
    assert "denied" in user.cowstore_run("--", "sh", "-c", "chown 7 /srv 2>/dev/null || echo denied")
    need_program("newuidmap", "newgidmap")
    user.ranges = True
    ranges = ["0", "65534", "1", "1", "100000", "65536"]
    assert user.cowstore("unshare", "--", *mapped).split() == ranges * 2
    assert user.cowstore_run("--", *mapped).split() == ranges * 2
    # The program is there and fails: it is said, and one id has to do.
    user.before = ["--no-new-privs"]
    done = user.run(user.python, "-m", "cowstore.cli.run", "--", *mapped)
    assert done.stdout.split() == one * 2
    assert "going on with one id" in done.stderr
    assert "newuidmap" in done.stderr
    user.before, user.ranges = [], False
    said = complaint(user, user.python, "-m", "cowstore.cli.run", "--user", "7:7", "--", "true")
    assert "this user namespace has no such id" in said
    assert "needs newuidmap (Debian's package uidmap) and ranges in /etc/subuid and /etc/subgid" in said
