"""Starting a program without a copy of the caller's memory: posix_spawn(3).

Python's own :func:`os.posix_spawn` cannot name the two signals that glibc keeps to itself, and glibc leaves those
ignored in the new program unless they are named.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_char_p, c_int, c_short, c_void_p

from cowstore._linux._call import bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80  # spawn.h, the same in glibc and musl
_ATTRIBUTES_BYTES = 1024
"""More than a posix_spawnattr_t has: 336 in both."""
_SIGSET_BYTES = 128

_init = bind("posix_spawnattr_init", c_void_p)
_destroy = bind("posix_spawnattr_destroy", c_void_p)
_setflags = bind("posix_spawnattr_setflags", c_void_p, c_short)
_setsigmask = bind("posix_spawnattr_setsigmask", c_void_p, c_char_p)
_setsigdefault = bind("posix_spawnattr_setsigdefault", c_void_p, c_char_p)
_posix_spawn = bind("posix_spawn", c_void_p, c_char_p, c_void_p, c_void_p, c_void_p, c_void_p)


def posix_spawn(path: str, argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Start a program in a session of its own, with every signal let through and of its default disposition.

    All else is the caller's: ids, capabilities, directory, descriptors that are not closed at an exec.

    Args:
        path: of the program; nothing is looked up.
        argv: its arguments, with its name.
        environment: all of its variables.

    Returns:
        the number of the process, in which the program was executed.

    Raises:
        OSError: as execve(2) or clone(2).

    Source: posix_spawn(3).
    """
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    _init(attributes)
    try:
        _setflags(attributes, _SETSIGDEF | _SETSIGMASK | _SETSID)
        _setsigmask(attributes, bytes(_SIGSET_BYTES))
        _setsigdefault(attributes, b"\xff" * _SIGSET_BYTES)
        pid = c_int(0)
        variables = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
        code = _posix_spawn(
            ctypes.byref(pid), os.fsencode(path), None, attributes, _array(map(os.fsencode, argv)), _array(variables)
        )
    finally:
        _destroy(attributes)
    if code:
        error = OSError(code, os.strerror(code), path)
        error.add_note("posix_spawn(3)")
        raise error
    return pid.value


def _array(words: Iterable[bytes]) -> ctypes.Array[c_char_p]:
    """Return a vector of strings with a null pointer at its end."""
    made = [*words, None]
    return (c_char_p * len(made))(*made)
