"""The command line of ``cowstore``: one description for the program, the man page and the documentation."""

from __future__ import annotations

import argparse

from cowstore._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from _typeshed import SupportsWrite

DESCRIPTION = "Make, list, mount, compare and remove the snapshots of a store."

EPILOG = """\
Exit status: 0 done; 1 it failed, and one line on standard error says why; 2 the command line is wrong;
130 interrupted; 141 standard output was closed by its reader.

COWSTORE_DEBUG=1 in the environment shows the traceback of an error, and what the library logs.
"""


class UsageError(Exception):
    """The command line cannot be read."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the process, so that one place reports every error."""

    ends_with_program = False
    """What stands behind ``--`` is its ``words``, as they are, wherever options are."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(args)
        if not self.ends_with_program or "--" not in words:
            return super().parse_known_args(words, namespace)
        at = words.index("--")
        found, rest = super().parse_known_args(words[:at], namespace)
        found.words = [*found.words, *words[at + 1 :]]
        return found, rest

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all of it; what is too much is told with the help of the command that did not take it."""
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            raise UsageError(
                f"{found.command} takes no {' '.join(rest)}; try `{self.prog} {found.command} --help`"
                if hasattr(found, "command")
                else f"unrecognized arguments: {' '.join(rest)}; try `{self.prog} --help`"
            )
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:  # noqa: SLF001  # the only name it has
            import difflib

            near = difflib.get_close_matches(value, action.choices, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"there is no command {value!r}; {hint}`{self.prog} --help` lists them")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; try `{self.prog} --help`")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # The original swallows the error of a standard output that cannot be written.
        if message and file is not None:
            file.write(message)


def size(text: str) -> int:
    """Read a size such as ``512M`` or ``2G`` (powers of 1024) as bytes."""
    from cowstore.drivers._options import size as bytes_of

    try:
        return bytes_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; give bytes, or a number with K, M, G or T (powers of 1024)"
        ) from None


def pair(text: str) -> tuple[str, str]:
    """Read ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def build() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(prog="cowstore", description=DESCRIPTION, epilog=EPILOG, formatter_class=_Formatter)
    parser.add_argument("--version", action="version", version=f"cowstore {__version__}")
    _add_globals(parser, "")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)

    def command(name: str, handler: str, summary: str, text: str = "") -> Parser:
        description = f"{_sentence(summary)} {text}".rstrip()
        made: Parser = commands.add_parser(name, help=summary, description=description, formatter_class=_Formatter)
        made.set_defaults(handler=handler)
        # A second set of the global options, told apart by their destination: the first one's values must survive.
        _add_globals(made, "after_")
        return made

    _add_looking(command)
    _add_making(command)
    _add_layers(command)
    _add_keeping(command)
    return parser


def merge_globals(arguments: argparse.Namespace) -> None:
    """Fold the global options given after the command into those given before it; the later one wins."""
    for name in ("store", "driver"):
        after = getattr(arguments, f"after_{name}")
        if after is not None:
            setattr(arguments, name, after)
    arguments.json = arguments.json or arguments.after_json
    arguments.option = dict([*arguments.option, *arguments.after_option])


def _sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions are wrapped like all else, only the epilog keeps its lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text == EPILOG:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)  # noqa: SLF001  # the way argparse offers


def _add_globals(parser: Parser, prefix: str) -> None:
    """Add the options that may stand before or after the command."""
    group = parser.add_argument_group("global options (also before the command)" if prefix else "global options")
    group.add_argument(
        "--store",
        dest=f"{prefix}store",
        metavar="DIR",
        help="the store's directory (default: /var/lib/cowstore, for an ordinary user $XDG_DATA_HOME/cowstore)",
    )
    group.add_argument(
        "--driver",
        dest=f"{prefix}driver",
        metavar="NAME",
        help="the storage driver (default: the one the store records; for a new store the best that works)",
    )
    group.add_argument(
        "--option",
        dest=f"{prefix}option",
        metavar="NAME=VALUE",
        type=pair,
        action="append",
        default=[],
        help="an option of the driver; may be given more than once",
    )
    group.add_argument(
        "--json", dest=f"{prefix}json", action="store_true", help="write JSON on standard output, also for an error"
    )


def _add_looking(command: Callable[..., Parser]) -> None:
    """Add the commands that only look."""
    made = command(
        "info",
        "_looking:info",
        "show the drivers of this machine and the state of the store",
        "Each driver is tried where the store is, or would be; one that cannot work says what is missing.",
    )
    made.add_argument("--disks", action="store_true", help="list this machine's disks too, and what is on them")

    made = command("ls", "_looking:ls", "list the snapshots")
    kinds = ("active", "view", "committed")
    made.add_argument("--kind", metavar="KIND", choices=kinds, help="only active, view or committed ones")
    made.add_argument("--parent", metavar="KEY", help="only the children of this snapshot")
    _add_label(made, "only those with this label")

    command("tree", "_looking:tree", "draw the snapshots as trees of parents and children")

    made = command(
        "changes",
        "_looking:changes",
        "list what differs between a snapshot and its parent",
        "One line `A PATH` (added), `M PATH` (modified) or `D PATH` (deleted) for each, sorted by path.",
    )
    made.add_argument("key", metavar="KEY")
    _add_parent(made, "BASE", "base", "compare with this snapshot instead of the parent")
    made.add_argument("-0", "--null", action="store_true", help="end each line by a NUL instead of a newline")

    made = command("df", "_looking:df", "show the room that snapshots take, and the room that is left")
    made.add_argument("key", metavar="KEY", nargs="*", help="only these snapshots")


def _add_making(command: Callable[..., Parser]) -> None:
    """Add the commands that make snapshots."""
    made = command(
        "import",
        "_making:import_",
        "make a committed snapshot from an image, a directory or a tar archive",
        "What it is is told by its content: an OCI layout (a directory, or an archive of one), a docker-archive, or a "
        "plain root file system. An image becomes one snapshot for each layer, shared between images. Archives may be "
        "compressed by gzip, bzip2, xz or zstd.",
    )
    made.add_argument("source", metavar="SOURCE", help="directory or archive; - reads standard input")
    made.add_argument("--name", metavar="KEY", required=True, help="the key of the new snapshot")
    made.add_argument(
        "--platform", metavar="OS/ARCH", help="which image of several, such as linux/arm64 (default: this machine's)"
    )

    made = command("prepare", "_making:prepare", "make a writable snapshot of a committed one, or an empty one")
    made.add_argument("key", metavar="KEY")
    _add_parent(made, "PARENT", "parent", "a committed snapshot; none makes an empty one")
    _add_label(made, "give it this label")
    made.add_argument("--size", metavar="BYTES", type=size, help="the most it may hold, such as 2G")

    made = command("view", "_making:view", "make a read-only snapshot of a committed one")
    made.add_argument("key", metavar="KEY")
    _add_parent(made, "PARENT", "parent", "a committed snapshot")
    _add_label(made, "give it this label")

    made = command("commit", "_making:commit", "turn a writable snapshot into a committed one, under a new key")
    made.add_argument("name", metavar="NAME", help="the key of the committed snapshot")
    made.add_argument("key", metavar="KEY", help="the writable snapshot, gone afterwards")
    _add_label(made, "give it this label")

    made = command("rm", "_making:rm", "remove snapshots")
    made.add_argument("key", metavar="KEY", nargs="+")
    made.add_argument("--wait", action="store_true", help="wait for those that are mounted or running")


def _add_layers(command: Callable[..., Parser]) -> None:
    """Add the commands that turn snapshots into layers and back."""
    made = command("diff", "_layers:diff", "write what differs between a snapshot and its parent as an OCI layer")
    made.add_argument("key", metavar="KEY")
    _add_parent(made, "BASE", "base", "compare with this snapshot instead of the parent")
    made.add_argument("-o", "--output", metavar="FILE", help="write to this file (default: standard output)")
    forms = ("none", "gzip", "zstd")
    made.add_argument("--compression", choices=forms, default="none", metavar="FORM", help="none, gzip or zstd")

    made = command(
        "export",
        "_images:export",
        "write a committed snapshot and its parents as an OCI image",
        "An image that was imported leaves as it came, to the byte. The manifest's digest is printed.",
    )
    made.add_argument("key", metavar="KEY")
    made.add_argument(
        "path", metavar="PATH", help="a directory, made or extended, or a name that ends in .tar for an archive"
    )
    made.add_argument("--ref", metavar="NAME", help="what the image is called in it (default: KEY)")
    packed = ("none", "gzip", "zstd")
    made.add_argument(
        "--compression", choices=packed, default="gzip", metavar="FORM", help="none, gzip (the default) or zstd"
    )

    made = command(
        "apply",
        "_layers:apply",
        "unpack an OCI layer over a writable snapshot",
        "If the layer is broken or hostile the snapshot is removed, rather than left half-changed.",
    )
    made.add_argument("key", metavar="KEY")
    made.add_argument("source", metavar="LAYER", help="a layer, plain or compressed; - reads standard input")

    made = command("squash", "_layers:squash", "make one committed snapshot of a chain, under a new key")
    made.add_argument("name", metavar="NAME", help="the key of the new snapshot")
    made.add_argument("key", metavar="KEY", help="the snapshot whose tree it shall have")
    made.add_argument("--base", metavar="KEY", help="its parent; without, it has none")


def _add_keeping(command: Callable[..., Parser]) -> None:
    """Add the commands that mount, and those about the store as a whole."""
    made = command(
        "mount",
        "_keeping:mount",
        "mount a snapshot on a directory",
        "It stays mounted, and the snapshot busy, until `cowstore umount`. Without arguments: list what is mounted.",
    )
    made.add_argument("key", metavar="KEY", nargs="?")
    made.add_argument("target", metavar="DIR", nargs="?")

    made = command("umount", "_keeping:umount", "unmount what `cowstore mount` mounted")
    made.add_argument("target", metavar="DIR")

    made = command(
        "check",
        "_keeping:check",
        "compare the catalog, the driver and the disk, and name every disagreement",
        "Exits with 1 if anything is left that is not as it should be.",
    )
    made.add_argument("--repair", action="store_true", help="mend or remove what is named as repairable, nothing else")

    made = command(
        "migrate",
        "_images:migrate",
        "copy every snapshot into another store, of whatever driver",
        "Each copy is checked by its digest; the store is only read. Interrupted, it goes on where it was when called "
        "again.",
    )
    made.add_argument("--to", metavar="NAME", help="the other store's driver (default: the best that works there)")
    made.add_argument("directory", metavar="DIR", help="the other store, made if it is not there")
    made.add_argument(
        "--to-option", metavar="NAME=VALUE", type=pair, action="append", default=[], help="an option of that driver"
    )

    made = command("destroy", "_keeping:destroy", "remove the whole store, with its pool, devices and subvolumes")
    made.add_argument("--yes", action="store_true", help="do not ask; without a terminal nothing is asked either")

    made = command(
        "unshare",
        "unshare:unshare",
        "run a program that may mount an ordinary user's snapshots",
        "The program is root of a user and a mount namespace: there `cowstore mount` works, and Store.mounted in a "
        "program. What it leaves mounted ends with it. Without PROGRAM: the shell.",
    )
    made.add_argument("words", metavar="-- PROGRAM …", nargs=argparse.REMAINDER, help="the program and its arguments")

    _add_bundle(command)

    made = command(
        "bench",
        "bench:bench",
        "measure the drivers of this machine, and the tools beside them",
        "Suites: quick, drivers, layers, run, scale, peers; with results: compare, report. Options of each: "
        "`cowstore bench SUITE --help`.",
    )
    made.add_argument("words", metavar="SUITE …", nargs=argparse.REMAINDER, help="a suite with its options")

    made = command(
        "completion",
        "_completion:completion",
        "print what makes a shell complete this command's words",
        "For bash: `source <(cowstore completion bash)`. The keys of snapshots are completed too.",
    )
    made.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")


def _add_bundle(command: Callable[..., Parser]) -> None:
    """Add the command that makes a bundle; its options are those of ``cowstore-run``."""
    made = command(
        "bundle",
        "_bundle:bundle",
        "make a directory an OCI runtime bundle of a snapshot",
        "`runc run --bundle DIR NAME` or crun then runs it, isolated as by `cowstore-run`, whose options these are. "
        "The snapshot is mounted at DIR/rootfs, and busy, until `cowstore umount DIR/rootfs`. Without PROGRAM: what "
        "the image says.",
    )
    made.add_argument("key", metavar="KEY")
    made.add_argument("directory", metavar="DIR", help="an empty directory, or one that is made")
    made.add_argument("--user", metavar="USER[:GROUP]", help="whom to run as, by the root's own files or by number")
    made.add_argument("--env", metavar="NAME=VALUE", type=pair, action="append", default=[], help="one more variable")
    made.add_argument("--workdir", metavar="DIR", help="directory inside the root to start in")
    made.add_argument("--hostname", metavar="NAME", help="name of the machine as the program sees it")
    made.add_argument("--network", choices=("none", "host"), default="none", metavar="KIND", help="none or host")
    made.add_argument("--read-only", action="store_true", help="nothing can be written to the root")
    made.add_argument("--tty", action="store_true", help="give it a terminal of its own")
    for name, metavar, text in (
        ("--bind", "SRC:DST[:ro]", "show a directory or file of this machine inside"),
        ("--tmpfs", "PATH[:SIZE]", "an empty directory in memory"),
        ("--cap-add", "NAME", "keep one more capability"),
        ("--cap-drop", "NAME", "keep one less"),
    ):
        made.add_argument(name, metavar=metavar, action="append", default=[], help=text)
    made.add_argument("--seccomp", metavar="none|FILE", default="default", help="no filter, or that of a profile")
    made.add_argument("--memory", metavar="SIZE", type=size, help="bound for all its processes together")
    made.add_argument("--cpus", metavar="N", type=float, help="likewise, in processors")
    made.add_argument("--pids", metavar="N", type=int, help="likewise, in processes")
    made.add_argument("words", metavar="-- PROGRAM …", nargs="*", help="the program and its arguments")
    made.ends_with_program = True


def _add_parent(made: Parser, metavar: str, dest: str, text: str) -> None:
    """Add one snapshot that may be given by position or by name."""
    made.add_argument(f"{dest}_by_position", metavar=metavar, nargs="?", help=text)
    made.add_argument(f"--{dest}", metavar="KEY", help="the same, by name")


def _add_label(made: Parser, text: str) -> None:
    made.add_argument("--label", metavar="NAME=VALUE", type=pair, action="append", default=[], help=text)
