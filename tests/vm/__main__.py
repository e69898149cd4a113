"""``python -m tests.vm uml|qemu [options] -- COMMAND``: runs COMMAND in a guest and exits with its status."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time

from tests.vm import packages, qemu, uml
from tests.vm.guest import LAUNCHER_FAILED, BootFailure, Guest, processor_seconds

LAUNCH = {"uml": uml.launch, "qemu": qemu.launch}
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """A size in bytes from ``64M`` and the like."""
    unit = UNITS.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("kind", choices=sorted(LAUNCH))
    parser.add_argument("--udevd", action="store_true", help="run a udev daemon in the guest")
    parser.add_argument(
        "--memory", type=size, default=size("1G"), metavar="SIZE", help="memory of the guest (%(default)s)"
    )
    parser.add_argument(
        "--processors", type=int, default=2, metavar="N", help="processors of a QEMU guest (%(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="stop the guest after this (%(default)s)"
    )
    parser.add_argument(
        "--disk", type=size, action="append", default=[], metavar="SIZE", help="an empty disk, repeatable"
    )
    parser.add_argument(
        "--scratch",
        choices=["tmpfs", "ext4", "xfs", "btrfs"],
        default="tmpfs",
        help="file system of /tmp (%(default)s); all but tmpfs on a first disk of --scratch-size",
    )
    parser.add_argument("--scratch-size", type=size, default=size("8G"), metavar="SIZE", help="its size, sparse (8G)")
    parser.add_argument("--results", metavar="DIR", help="the one directory of this machine the guest may write to")
    parser.add_argument("--time", action="store_true", help="say how long all of it took")
    parser.add_argument("command", nargs="+", help="a program and its arguments, or one word of shell")
    return parser.parse_args(arguments)


def stop(number: int, _frame: object) -> None:
    """End as by an interrupt, so that the guest is killed and its directory removed."""
    raise SystemExit(128 + number)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    if options.results:
        options.results = os.path.realpath(options.results)
        os.makedirs(options.results, exist_ok=True)
    guest = Guest(
        command=options.command[0] if len(options.command) == 1 else shlex.join(options.command),
        working_directory=os.getcwd(),
        memory_bytes=options.memory,
        timeout_seconds=options.timeout,
        processors=options.processors,
        udevd=options.udevd,
        scratch=options.scratch,
        disks=(*([] if options.scratch == "tmpfs" else [options.scratch_size]), *options.disk),
        results=options.results,
    )
    begun = time.monotonic()
    try:
        return LAUNCH[options.kind](guest)
    except (BootFailure, packages.Missing, LookupError, OSError) as error:
        print(f"kernel tier: {options.kind}: {error}", file=sys.stderr)
        return LAUNCHER_FAILED
    except KeyboardInterrupt:
        print(f"kernel tier: {options.kind}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        if options.time:
            took, used = time.monotonic() - begun, processor_seconds()
            print(f"kernel tier: {options.kind}: {took:.1f} s, {used:.1f} s of processor", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
