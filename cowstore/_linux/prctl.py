"""prctl(2), one typed function per option; named as the option without its PR_.

Source: prctl(2); include/uapi/linux/prctl.h.
"""

from __future__ import annotations

from ctypes import c_char_p, c_int, c_ulong

from cowstore._linux._call import bind, oserror, path_bytes, retry

_SET_PDEATHSIG = 1
_GET_DUMPABLE = 3
_SET_DUMPABLE = 4
_GET_KEEPCAPS = 7
_SET_KEEPCAPS = 8
_SET_NAME = 15
_CAPBSET_READ = 23
_CAPBSET_DROP = 24
_SET_CHILD_SUBREAPER = 36
_SET_NO_NEW_PRIVS = 38
_GET_NO_NEW_PRIVS = 39
_CAP_AMBIENT = 47
_CAP_AMBIENT_IS_SET = 1
_CAP_AMBIENT_RAISE = 2
_CAP_AMBIENT_LOWER = 3
_CAP_AMBIENT_CLEAR_ALL = 4


# Unused arguments are given as zeros: newer options insist, and a variadic call would leave what was in the registers.
_prctl = bind("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_prctl_text = bind("prctl", c_int, c_char_p, c_ulong, c_ulong, c_ulong)


def _call(option: int, name: str, first: int = 0, second: int = 0) -> int:
    """Call with integers, and name the option where it fails."""
    result = retry(_prctl, option, first, second, 0, 0)
    if result == -1:
        raise oserror("prctl(2)", detail=f"PR_{name}")
    return result


def set_pdeathsig(signal: int) -> None:
    """Have the kernel send the caller a signal when the *thread* that made it ends; 0 is none.

    Lost at execve of a set-user-ID or capable program and at a change of user. It does not tell of a parent that was
    gone before: compare os.getppid() afterwards.

    Raises:
        OSError: EINVAL, no such signal.
    """
    _call(_SET_PDEATHSIG, "SET_PDEATHSIG", signal)


def get_dumpable() -> int:
    """Tell whether the process may be traced and dumps core: 0 no, 1 yes, 2 only for root."""
    return _call(_GET_DUMPABLE, "GET_DUMPABLE")


def set_dumpable(value: bool) -> None:  # noqa: FBT001  (the option's one argument)
    """Allow or forbid other processes of the user to trace this one and to open its files of /proc."""
    _call(_SET_DUMPABLE, "SET_DUMPABLE", int(value))


def get_keepcaps() -> bool:
    """Tell whether permitted capabilities outlive a change from user 0 to another."""
    return _call(_GET_KEEPCAPS, "GET_KEEPCAPS") == 1


def set_keepcaps(value: bool) -> None:  # noqa: FBT001  (the option's one argument)
    """Let permitted capabilities outlive a change from user 0 to another, until the next execve.

    Raises:
        OSError: EPERM, the secure bit SECBIT_KEEP_CAPS_LOCKED is set.
    """
    _call(_SET_KEEPCAPS, "SET_KEEPCAPS", int(value))


def set_name(name: str | bytes) -> None:
    """Name the calling thread as ps(1) shows it; the kernel keeps 15 bytes."""
    if retry(_prctl_text, _SET_NAME, path_bytes(name, "prctl(2)"), 0, 0, 0) == -1:
        raise oserror("prctl(2)", detail="PR_SET_NAME")


def capbset_read(cap: int) -> bool:
    """Tell whether the bounding set of the calling thread holds a capability.

    Raises:
        OSError: EINVAL, the kernel does not know it.
    """
    return _call(_CAPBSET_READ, f"CAPBSET_READ {cap:d}", cap) == 1


def capbset_drop(cap: int) -> None:
    """Take a capability from the bounding set of the calling thread, for ever.

    Raises:
        OSError: EPERM, CAP_SETPCAP is missing; EINVAL, the kernel does not know the capability.
    """
    _call(_CAPBSET_DROP, f"CAPBSET_DROP {cap:d}", cap)


def set_child_subreaper(value: bool) -> None:  # noqa: FBT001  (the option's one argument)
    """Make this process the new parent of its orphaned descendants, or cease to be."""
    _call(_SET_CHILD_SUBREAPER, "SET_CHILD_SUBREAPER", int(value))


def set_no_new_privs() -> None:
    """Make sure no execve of this thread, or of what it starts, ever gives privileges; there is no way back."""
    _call(_SET_NO_NEW_PRIVS, "SET_NO_NEW_PRIVS", 1)


def get_no_new_privs() -> bool:
    """Tell whether `set_no_new_privs` has been called in this thread or before it."""
    return _call(_GET_NO_NEW_PRIVS, "GET_NO_NEW_PRIVS") == 1


def cap_ambient_is_set(cap: int) -> bool:
    """Tell whether the ambient set of the calling thread holds a capability.

    Raises:
        OSError: EINVAL, the kernel does not know it.
    """
    return _call(_CAP_AMBIENT, f"CAP_AMBIENT is set {cap:d}", _CAP_AMBIENT_IS_SET, cap) == 1


def cap_ambient_raise(cap: int) -> None:
    """Add a capability to the ambient set, which execve of a program without file capabilities keeps.

    Raises:
        OSError: EPERM, it is not both permitted and inheritable, or the secure bit SECBIT_NO_CAP_AMBIENT_RAISE is set.
    """
    _call(_CAP_AMBIENT, f"CAP_AMBIENT raise {cap:d}", _CAP_AMBIENT_RAISE, cap)


def cap_ambient_lower(cap: int) -> None:
    """Take a capability from the ambient set.

    Raises:
        OSError: EINVAL, the kernel does not know it.
    """
    _call(_CAP_AMBIENT, f"CAP_AMBIENT lower {cap:d}", _CAP_AMBIENT_LOWER, cap)


def cap_ambient_clear_all() -> None:
    """Empty the ambient set of the calling thread."""
    _call(_CAP_AMBIENT, "CAP_AMBIENT clear all", _CAP_AMBIENT_CLEAR_ALL)
