"""The command line of ``cowstore-run``: read by hand, since :mod:`argparse` alone would cost a third of the start."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HELP = """\
usage: cowstore-run [OPTION…] [--] [PROGRAM [ARGUMENT…]]

Run a program on a throw-away copy of a root file system: of this machine's own, or of --base.
All that stands behind PROGRAM is its own. Without one, what the image of --base says is run.

The root:
  --base KEY|TAR|DIR   a committed snapshot of the store, an archive, or a directory
  --with-mounts        without --base: show the other mounts of this machine too, read-only
  --bind SRC:DST[:ro]  show a directory or file of this machine inside
  --tmpfs PATH[:SIZE]  an empty directory in memory
  --read-only          nothing can be written to the root
Afterwards:
  --changes            list what the program changed: A, M or D and the path
  --commit NAME        keep the result as the committed snapshot NAME
  --keep KEY           keep the writable snapshot as KEY
The program:
  --user USER[:GROUP]  whom to run as, by the root's own passwd file or by number; default: root
  --env NAME=VALUE     one more variable; PATH, HOME and TERM are set, nothing else is taken over
  --workdir DIR        directory inside the root to start in
  --hostname NAME      name of the machine as the program sees it
  --network none|host|user   nothing but a loopback interface (the default), this machine's network,
                       or a way out through pasta or slirp4netns
  --tty                give it a terminal of its own, connected with this one
  --as-pid-1           make the program itself process 1; else a reaper of ours is, and it its child
  --cap-add NAME       keep one more capability; --cap-drop NAME keeps one less
  --seccomp none|FILE  no filter of system calls, or that of a profile (JSON); else a default one
  --memory SIZE, --cpus N, --pids N   bounds for all its processes together; where this machine cannot
                       enforce one that is an error, with --limits best-effort a warning
  --runtime crun|runc  leave the container to that runtime; the program is process 1 then
  --timeout SECONDS    end the program when its time is over, with status 124
The store:
  --store DIR          default: /var/lib/cowstore, for an ordinary user $XDG_DATA_HOME/cowstore
  --driver NAME        of a store that is made now; --option NAME=VALUE sets one of its options
Other:
  --print-plan         print every step instead of doing it
  --help, --version

Exit status: the program's own; 128+n if signal n ended it; 127 no such program; 126 it cannot be executed;
124 its time was over; 125 a failure of cowstore-run itself, a wrong option included.
"""


class UsageError(Exception):
    """The command line cannot be understood."""


class Options:
    """What the command line asks for."""

    def __init__(self) -> None:
        self.argv: list[str] = []
        self.as_pid_1 = False
        self.base: str | None = None
        self.changes = False
        self.bind: list[str] = []
        self.cap_add: list[str] = []
        self.cap_drop: list[str] = []
        self.commit: str | None = None
        self.driver: str | None = None
        self.env: dict[str, str] = {}
        self.help = False
        self.hostname: str | None = None
        self.cpus: float | None = None
        self.keep: str | None = None
        self.limits = ""
        self.memory: int | None = None
        self.network = "none"
        self.option: dict[str, object] = {}
        self.pids: int | None = None
        self.print_plan = False
        self.read_only = False
        self.runtime = ""
        self.seccomp = "default"
        self.store: str | None = None
        self.tmpfs: list[str] = []
        self.timeout: float | None = None
        self.tty = False
        self.user: str | None = None
        self.version = False
        self.with_mounts = False
        self.workdir: str | None = None


_FLAGS = frozenset({"as-pid-1", "changes", "help", "print-plan", "read-only", "tty", "version", "with-mounts"})
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _text(options: Options, name: str, value: str) -> None:
    setattr(options, name, value)


def _pair(options: Options, name: str, value: str) -> None:
    key, equals, content = value.partition("=")
    if not key or (not equals and name == "option"):
        raise UsageError(f"--{name} takes NAME=VALUE, not {value!r}")
    if not equals:
        # As env(1) of the container commands: the variable as it is here.
        if key not in os.environ:
            raise UsageError(f"--env {key}: there is no such variable here to take over; give {key}=VALUE")
        content = os.environ[key]
    getattr(options, name)[key] = content


def _more(options: Options, name: str, value: str) -> None:
    getattr(options, name.replace("-", "_")).append(value)


def _seconds(options: Options, name: str, value: str) -> None:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise UsageError(f"--{name} takes a number{' of seconds' * (name == 'timeout')} above 0, not {value!r}")
    setattr(options, name, seconds)


def _size(options: Options, name: str, value: str) -> None:
    from cowstore.drivers._options import size

    try:
        setattr(options, name, size(value))
    except ValueError:
        raise UsageError(f"--{name} takes a number of bytes, perhaps with K, M or G, not {value!r}") from None


def _count(options: Options, name: str, value: str) -> None:
    if not value.isascii() or not value.isdigit():
        raise UsageError(f"--{name} takes a whole number, not {value!r}")
    setattr(options, name, int(value))


def _limits(options: Options, name: str, value: str) -> None:
    if value != "best-effort":
        raise UsageError(f"--{name} takes best-effort, not {value!r}")
    options.limits = value


def _network(options: Options, name: str, value: str) -> None:
    if value not in {"none", "host", "user"}:
        raise UsageError(f"--{name} takes none, host or user, not {value!r}")
    options.network = value


def _runtime(options: Options, name: str, value: str) -> None:
    if value not in {"crun", "runc"}:
        raise UsageError(f"--{name} takes crun or runc, not {value!r}")
    options.runtime = value


_VALUES: dict[str, Callable[[Options, str, str], None]] = {
    "base": _text,
    "bind": _more,
    "cap-add": _more,
    "cap-drop": _more,
    "commit": _text,
    "cpus": _seconds,
    "driver": _text,
    "env": _pair,
    "hostname": _text,
    "keep": _text,
    "limits": _limits,
    "memory": _size,
    "network": _network,
    "option": _pair,
    "pids": _count,
    "runtime": _runtime,
    "seccomp": _text,
    "store": _text,
    "timeout": _seconds,
    "tmpfs": _more,
    "user": _text,
    "workdir": _text,
}


def parse(words: Sequence[str]) -> Options:
    """Read the command line, up to the program: what stands behind it is its own.

    :raises UsageError: it cannot be understood.
    """
    options = Options()
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "--":
            break
        if word == "-h":
            word = "--help"
        if not word.startswith("-") or word == "-":
            rest.append(word)
            break
        name, equals, value = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        if name in _FLAGS:
            _flag(options, name, value if equals else "true")
        elif name in _VALUES:
            if not equals:
                if not rest:
                    raise UsageError(f"--{name} needs a value")
                value = rest.pop()
            _VALUES[name](options, name, value)
        else:
            raise UsageError(
                f"there is no option {word}; cowstore-run --help lists them (put -- before a program of that name)"
            )
    options.argv = rest[::-1]
    if not (options.help or options.version):
        _check(options)
    return options


def _flag(options: Options, name: str, value: str) -> None:
    if value not in _TRUTH:
        raise UsageError(f"--{name} is a switch: give it alone, or =true or =false, not ={value}")
    setattr(options, name.replace("-", "_"), _TRUTH[value])


def _check(options: Options) -> None:
    """Refuse what cannot go together."""
    if not options.argv and options.base is None:
        raise UsageError("there is no program to run; try: cowstore-run -- sh, or --help")
    if options.read_only:
        for name in ("changes", "commit", "keep"):
            if getattr(options, name):
                raise UsageError(f"--read-only and --{name} cannot go together: nothing can change")
    if options.commit is not None and options.keep is not None:
        raise UsageError("--commit and --keep cannot go together: a committed snapshot is no longer writable")
    if options.with_mounts and options.base is not None:
        raise UsageError("--with-mounts is for running on this machine's own root, without --base")
