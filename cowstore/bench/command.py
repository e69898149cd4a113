"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import time

from cowstore.bench import machine
from cowstore.bench.results import Run, save
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

OVER, FAILED, USAGE, INTERRUPTED, CLOSED = 1, 3, 2, 130, 141


class UsageError(Exception):
    """The command line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    made = suites.add_parser("quick", help="the budgets, in under a minute; exits with 1 above one")
    _add_common(made)


def _add_common(made: argparse.ArgumentParser) -> None:
    made.add_argument("--scratch", metavar="DIR", help="where to measure (default: $TMPDIR or /var/tmp)")
    made.add_argument("--seed", metavar="N", type=int, default=1, help="of everything that is random (default: 1)")
    made.add_argument("--output", metavar="FILE", help="write the results as JSON")


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m benchmarks") -> int:
    """Run one suite or one command on results.

    :returns: 0; 1 above a budget; 2 for a wrong command line; 3 if it could not be measured; 130 when interrupted.
    """
    parser = _Parser(prog=prog, description="Measure cowstore on this machine.")
    add_arguments(parser)
    try:
        return execute(parser.parse_args(argv))
    except UsageError as error:
        return _complain(f"{error}; try --help", USAGE)


def execute(arguments: argparse.Namespace) -> int:
    """Do what the parsed command line asks for, every failure told in one line."""
    try:
        return _suite(arguments)
    except KeyboardInterrupt:
        return _complain("interrupted; the scratch directory is gone", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return CLOSED
    except (CowstoreError, OSError) as error:
        if os.environ.get("COWSTORE_DEBUG"):
            raise
        return _complain(str(error), FAILED)


def _complain(text: str, status: int) -> int:
    print(f"bench: {' '.join(text.split())}", file=sys.stderr)
    return status


def progress() -> Callable[[str], None]:
    """Return what tells how far a run is: one line that is written over on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda _text: None

    def say(text: str) -> None:
        print(f"\r\x1b[Kbench: {text}", end="" if text else "\r\x1b[K", file=sys.stderr, flush=True)

    return say


def _suite(arguments: argparse.Namespace) -> int:
    from cowstore.bench import quick, table
    from cowstore.bench.scratch import scratch

    say = progress()
    started = time.monotonic()
    run = Run(
        suite=arguments.suite,
        seed=arguments.seed,
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )
    with scratch(arguments.scratch, quick.SIZE_BYTES) as place:
        run.machine = machine.facts(place.path)
        quick.Quick(run, place, say).all()
    run.seconds = time.monotonic() - started
    say("")
    if arguments.output:
        save(run, arguments.output)
    table.show(run)
    return OVER if run.over else 0
