"""``cowstore unshare``: a program that may mount what is in an ordinary user's store."""

from __future__ import annotations

import os
import shutil
import signal
import sys

from cowstore.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cowstore.cli._output import Output

NOT_FOUND, NOT_EXECUTABLE = 127, 126


def unshare(arguments: argparse.Namespace, out: Output) -> int:
    """Become the program, as root of a user and a mount namespace; returns only if there is no such program.

    Who may mount already gets a mount namespace alone: what the program leaves mounted ends with it.
    """
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    words = words or [os.environ.get("SHELL") or "/bin/sh"]
    if not words[0]:
        raise InvalidArgument("the program's name is empty", argument="PROGRAM")
    if not os.path.dirname(words[0]) and shutil.which(words[0]) is None:
        out.remark(f"cannot run {words[0]}: there is no such program in PATH")
        return NOT_FOUND
    enter(arguments.store)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and programs take that over
        signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    try:
        os.execvp(words[0], words)
    except OSError as error:
        out.remark(f"cannot run {words[0]}: {error.strerror}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def enter(store: str | None = None) -> None:
    """Go where mounts can be made, and remember where the store is that no command names.

    :raises Unsupported: this machine does not let its users; says what does.
    """
    from cowstore._opening import UNSHARED, default_root
    from cowstore._rootless.namespace import enter, may_mount

    if may_mount():
        from cowstore._linux.mount import MountFlag, mount
        from cowstore._linux.namespaces import CloneFlag, unshare

        unshare(CloneFlag.NEWNS)
        mount(None, "/", None, MountFlag.REC | MountFlag.SLAVE)
        where = store
    else:
        where = store or default_root()
        enter()
    if where is not None:
        os.environ[UNSHARED] = os.path.abspath(where)
