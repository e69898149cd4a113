"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import time

from cowstore.bench import machine
from cowstore.bench.results import Run, load, merge, save
from cowstore.bench.timing import preferred
from cowstore.errors import CowstoreError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from cowstore.bench.scratch import Scratch

OVER, USAGE, FAILED, INTERRUPTED, CLOSED = 1, 2, 3, 130, 141
"""Statuses: above a budget (or worse than before), a wrong command line, nothing measured, Ctrl-C, no reader."""

_ROUNDS = {"drivers": 5, "run": 20, "layers": 5, "scale": 60, "peers": 10}
_ROOM = {
    "quick": 1280 << 20,
    "drivers": 4 << 30,
    "scale": 2 << 30,
    "run": 512 << 20,
    "layers": 2 << 30,
    "peers": 2 << 30,
}
_NEEDS_ROOT = frozenset({"scale", "run", "layers", "peers"})


class UsageError(Exception):
    """The command line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the suites, and what is done with results."""
    suites = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    made = _suite_parser(suites, "quick", "the project's own budgets, in under a minute; exits with 1 above one")
    made.add_argument("--driver", metavar="NAME", help="the budgets of this driver instead")
    part = "of a driver's budgets only this one (repeatable)"
    made.add_argument("--part", metavar="NAME", action="append", default=[], help=part)
    made = _suite_parser(suites, "drivers", "every driver of this machine at every workload")
    _add_choice(made)
    made.add_argument("--workload", metavar="NAME", action="append", default=[], help="only this one (repeatable)")
    made.add_argument("--no-cold", action="store_true", help="do not empty the machine's caches for cold figures")
    made.add_argument("--list", action="store_true", help="list the workloads and end")
    made = _suite_parser(suites, "layers", "archives and layers against GNU tar and bsdtar, changes in large trees")
    made.add_argument("--tar", metavar="FILE", help="a root file system's archive (default: a synthetic one)")
    _suite_parser(suites, "run", "the start of processes, by every interpreter there is")
    made = _suite_parser(suites, "scale", "one more snapshot beside ever more of them, for every driver")
    _add_choice(made)
    made.add_argument("--most", metavar="N", type=_count, default=10000, help="snapshots at the end (default: 10000)")
    made = _suite_parser(suites, "peers", "the tools one would otherwise use, each as its users run it")
    made.add_argument("--peer", metavar="NAME", action="append", default=[], help="only this one (repeatable)")
    made = suites.add_parser("compare", help="what changed between two results, and whether chance would do that too")
    made.add_argument("before", metavar="A.json")
    made.add_argument("after", metavar="B.json")
    made.add_argument("--all", action="store_true", help="list what stayed the same, too")
    made = suites.add_parser("report", help="an HTML report or a table of results that were written before")
    made.add_argument("results", metavar="FILE.json")
    _add_results(made)


def _suite_parser(
    suites: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
) -> argparse.ArgumentParser:
    made = suites.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    made.add_argument("--scratch", metavar="DIR", help="where to measure (default: $TMPDIR, /var/tmp or /tmp)")
    made.add_argument("--seed", metavar="N", type=int, default=1, help="of everything that is random (default: 1)")
    if name in _ROUNDS:
        given = f"repeats (default: {_ROUNDS[name]})"
        made.add_argument("--rounds", metavar="N", type=_count, default=_ROUNDS[name], help=given)
        made.add_argument("--full", action="store_true", help="larger trees, files and depths; takes much longer")
    _add_results(made)
    return made


def _add_choice(made: argparse.ArgumentParser) -> None:
    made.add_argument("--only", metavar="DRIVER", action="append", default=[], help="only this driver (repeatable)")


def _add_results(made: argparse.ArgumentParser) -> None:
    made.add_argument("--output", metavar="FILE", help="write the results as JSON")
    made.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")
    made.add_argument("--html", metavar="FILE", help="write a report, one file that can be looked at offline")
    made.add_argument(
        "--merge",
        metavar="FILE",
        action="append",
        default=[],
        help="add the results of another run, or another machine",
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m benchmarks") -> int:
    """Run one suite, or one command on results.

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
        if arguments.suite == "compare":
            return _compare(arguments)
        if arguments.suite == "report":
            return _finish(load(arguments.results), arguments)
        if getattr(arguments, "list", False):
            return _list()
        return _finish(_measured(arguments), arguments)
    except KeyboardInterrupt:
        return _complain("interrupted; the scratch directory is gone", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return CLOSED
    except UsageError as error:
        return _complain(f"{error}; try --help", USAGE)
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
        print(f"\r\x1b[K{f'bench: {text}' if text else ''}", end="", file=sys.stderr, flush=True)

    return say


def _list() -> int:
    from cowstore.bench.workloads import load_all

    for name, work in load_all().items():
        print(f"{name:18} {work.summary}")
    return 0


def _measured(arguments: argparse.Namespace) -> Run:
    from cowstore.bench.scratch import scratch

    suite: str = arguments.suite
    if suite in _NEEDS_ROOT and os.geteuid() != 0:
        raise Unsupported(
            f"the suite {suite} mounts, which only root can here; run it as root, or `quick` and `drivers`, which "
            "measure what an ordinary user can do",
            feature="mount",
        )
    # What is wrong with other files is said before a long run, not after it.
    for path in arguments.merge:
        load(path)
    _check_names(arguments)
    say = progress()
    started = time.monotonic()
    run = Run(suite=suite, seed=arguments.seed, started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
    room = _room(arguments)
    try:
        with scratch(arguments.scratch, room) as place, preferred(alone=suite == "quick") as first:
            run.machine = {**machine.facts(place.path), "preferred": first}
            if first:
                run.method.append(PREFERRED[suite == "quick"])
            _SUITES[suite](run, place, say, arguments)
    finally:
        say("")
    if not run.series:
        raise CowstoreError("nothing could be measured: " + "; ".join(f"{k}: {v}" for k, v in run.absent.items()))
    run.seconds = time.monotonic() - started
    return run


PREFERRED = {
    False: "The run and its children went before other programs (nice value -20).",
    True: "The run and its children went before other programs, in the class for real time (SCHED_RR) where there is "
    "one: what needs several processes at once may take another time for users, who have neither.",
}
"""What a report says of a run that was preferred, by whether only one thing at a time was measured."""


def _room(arguments: argparse.Namespace) -> int:
    """Return the bytes that the suite may need."""
    if getattr(arguments, "driver", None):
        from cowstore.bench.quick_driver import SIZE_BYTES

        return SIZE_BYTES.get(arguments.driver, _ROOM["quick"])
    return _ROOM[arguments.suite] * (4 if getattr(arguments, "full", False) else 1)


def _check_names(arguments: argparse.Namespace) -> None:
    from cowstore.bench.grounds import SUBJECTS
    from cowstore.bench.suites import pick

    driver = getattr(arguments, "driver", None)
    pick([*getattr(arguments, "only", []), *filter(None, [driver])], SUBJECTS, "driver")
    if getattr(arguments, "part", []):
        from cowstore.bench.quick_driver import PARTS

        if driver is None:
            raise UsageError("--part chooses of a driver's budgets, which --driver names")
        pick(arguments.part, PARTS[driver], "part")
    if getattr(arguments, "workload", []):
        from cowstore.bench.workloads import load_all

        pick(arguments.workload, load_all(), "workload")
    if getattr(arguments, "peer", []):
        from cowstore.bench.peers import load_peers

        pick(arguments.peer, load_peers(), "peer")


def _quick(run: Run, place: Scratch, say: Callable[[str], None], arguments: argparse.Namespace) -> None:
    if arguments.driver:
        from cowstore.bench import quick_driver

        run.suite = f"quick --driver {arguments.driver}"
        quick_driver.measure_driver(run, place, say, arguments.driver, arguments.part)
        return
    from cowstore.bench.quick import Quick

    Quick(run, place, say).all()


def _drivers(run: Run, place: Scratch, say: Callable[[str], None], arguments: argparse.Namespace) -> None:
    from cowstore.bench import suites
    from cowstore.bench.workloads import Plan

    cold = not arguments.no_cold and machine.can_drop_caches()
    plan = Plan(seed=arguments.seed, full=arguments.full, cold=cold)
    suites.drivers(
        run, place, say, plan=plan, subjects=arguments.only, works=arguments.workload, rounds=arguments.rounds
    )


def _layers(run: Run, place: Scratch, say: Callable[[str], None], arguments: argparse.Namespace) -> None:
    from cowstore.bench.running import layers_suite
    from cowstore.bench.workloads import Plan

    plan = Plan(seed=arguments.seed, full=arguments.full, cold=False)
    layers_suite(run, place, say, plan=plan, archive=arguments.tar, rounds=arguments.rounds)


def _run(run: Run, place: Scratch, say: Callable[[str], None], arguments: argparse.Namespace) -> None:
    from cowstore.bench.running import run_suite
    from cowstore.bench.workloads import Plan

    plan = Plan(seed=arguments.seed, full=arguments.full, cold=False)
    run_suite(run, place, say, plan=plan, rounds=arguments.rounds)


def _scale(run: Run, place: Scratch, say: Callable[[str], None], arguments: argparse.Namespace) -> None:
    from cowstore.bench import suites

    suites.scale(run, place, say, subjects=arguments.only, most=arguments.most, rounds=arguments.rounds)


def _peers(run: Run, place: Scratch, say: Callable[[str], None], arguments: argparse.Namespace) -> None:
    from cowstore.bench.peers import peers_suite

    peers_suite(run, place, say, names=arguments.peer, rounds=arguments.rounds)


_SUITES = {"quick": _quick, "drivers": _drivers, "layers": _layers, "run": _run, "scale": _scale, "peers": _peers}


def _finish(run: Run, arguments: argparse.Namespace) -> int:
    """Write and show what was found."""
    from cowstore.bench import table

    if arguments.merge:
        run = merge(run, *map(load, arguments.merge))
    if arguments.output:
        save(run, arguments.output)
    if arguments.html:
        from cowstore.bench import report

        report.save(run, arguments.html)
    if arguments.json:
        import json

        print(json.dumps(run.document()))
    else:
        table.show(run)
    return OVER if run.over else 0


def _compare(arguments: argparse.Namespace) -> int:
    from cowstore.bench import table
    from cowstore.bench.compare import compare

    found = compare(load(arguments.before), load(arguments.after))
    if not found.differences:
        raise CowstoreError(f"{arguments.before} and {arguments.after} have no figure in common")
    table.show_differences(found, everything=arguments.all)
    return OVER if any(one.verdict == "worse" for one in found.differences) else 0
