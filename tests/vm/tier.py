"""What the kernel tier runs in its guests: ``python -m tests.vm.tier kernel|kernel-smp|kernel-full [--driver NAME]…``.

Guests run side by side where the processors are there. What each said is printed when it has ended; the last lines are
one for each driver. The exit status is 0 if all passed, 3 if a driver asked for by name could not be proven on the
kernel, 1 otherwise; further arguments go to pytest, those that name tests instead of the tier's own choice.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests import perdriver
from tests.vm import packages

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED, NOT_PROVEN = 1, 3
SUITE = ("cases", "machine", "faults", "model", "crowd")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One guest, and what pytest runs in it."""

    name: str
    drivers: tuple[str, ...]
    arguments: tuple[str, ...]
    kind: str = "uml"
    scratch: str = "ext4"
    udevd: bool = False
    memory: str = "1500M"
    seconds: int = 600

    def command(self, extra: Sequence[str], results: str) -> list[str]:
        """The launcher's arguments; in the guest pytest runs on the installed package, as in the other tiers."""
        chosen = [*extra] if any(one.startswith("tests") for one in extra) else [*self.arguments, *extra]
        inside = [
            "env", f"COWSTORE_TEST_DRIVERS={','.join(self.drivers)}", f"{perdriver.DIRECTORY}={results}",
            sys.executable, "-P", "-m", "pytest", "-q", "--durations=5", *chosen,
        ]  # fmt: skip
        return [
            sys.executable, "-m", "tests.vm", self.kind, "--time", "--memory", self.memory, "--scratch", self.scratch,
            "--timeout", str(self.seconds), "--results", results, *(["--udevd"] if self.udevd else []), "--", *inside,
        ]  # fmt: skip


def suite(*parts: str) -> tuple[str, ...]:
    return tuple(f"tests/conformance/test_{part}.py" for part in parts)


PARALLEL = "threads or mounted_origin or verbs or processes"
PLANS: dict[str, tuple[Run, ...]] = {
    "kernel": (
        Run(name="devicemapper", drivers=("devicemapper",), arguments=(*suite(*SUITE, "mutants"), "tests/vm")),
        Run(
            name="overlay, btrfs, copy",
            drivers=("overlay", "btrfs", "copy"),
            scratch="xfs",
            arguments=(*suite("cases", "machine", "faults"), "tests/root/drivers/test_quota.py"),
        ),
        Run(
            name="devicemapper beside a udev daemon",
            drivers=("devicemapper",),
            udevd=True,
            arguments=(*suite("cases", "machine", "faults"), "tests/vm/drivers/devicemapper/test_udev.py"),
        ),
    ),
    "kernel-smp": (
        Run(
            name="devicemapper on two processors",
            kind="qemu",
            drivers=("devicemapper",),
            memory="2G",
            arguments=("-k", PARALLEL, "tests/vm", *suite("crowd")),
        ),
    ),
}


class Interrupted(Exception):
    """A signal asked for the end."""


def one_driver(plan: str, driver: str) -> tuple[Run, ...]:
    """The whole suite over one driver, in a guest of the plan's kind."""
    kind = PLANS[plan][0].kind
    return (
        Run(name=driver, drivers=(driver,), kind=kind, memory="2G", seconds=3000, arguments=suite(*SUITE, "mutants")),
    )


def execute(runs: Sequence[Run], extra: Sequence[str], results: str, *, at_once: int) -> list[str]:
    """Run guests, at most so many at once; returns the names of those that failed."""
    waiting, failed = list(runs), []
    running: dict[subprocess.Popen[bytes], tuple[Run, Path]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                run = waiting.pop(0)
                log = Path(results, f"log-{len(waiting)}")
                say(f"{run.name}: begins ({run.kind})")
                with open(log, "wb") as file:
                    process = subprocess.Popen(
                        run.command(extra, results), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
                    )
                running[process] = run, log
            for process in [process for process in running if process.poll() is not None]:
                run, log = running.pop(process)
                say(f"{run.name}: ended with status {process.returncode}; it said:")
                sys.stdout.write(log.read_text(errors="replace"))
                if process.returncode:
                    failed.append(run.name)
            time.sleep(0.1)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed


def say(text: str) -> None:
    print(f"kernel tier: {text}", flush=True)


def prepare(runs: Sequence[Run]) -> None:
    """Install what the guests need before two of them would do it at once."""
    wanted = dict(packages.COMMON)
    for kind in {run.kind for run in runs}:
        wanted |= {"uml": packages.UML | packages.UML_SHIM, "qemu": packages.QEMU}[kind]
    packages.ensure(wanted)


def verdict(tally: perdriver.Tally, failed: Sequence[str], asked: Sequence[str]) -> int:
    """Print the last lines, and return the exit status."""
    for name in failed:
        say(f"{name}: FAILED")
    for line in perdriver.lines(tally):
        print(line)
    sys.stdout.flush()
    if failed or any(counts.get("failed") for counts in tally.values()):
        return FAILED
    unproven = [driver for driver in asked if not tally.get(driver, {}).get("passed")]
    return NOT_PROVEN if unproven else 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.tier", description=__doc__)
    parser.add_argument("plan", choices=sorted(PLANS))
    parser.add_argument("--driver", action="append", default=[], help="only this one, with the whole suite; repeatable")
    options, extra = parser.parse_known_args(arguments)
    runs = [run for driver in options.driver for run in one_driver(options.plan, driver)] or PLANS[options.plan]
    at_once = 1 if any(run.kind == "qemu" for run in runs) else max(1, len(os.sched_getaffinity(0)))
    begun = time.monotonic()

    def stop(number: int, _frame: object) -> None:
        raise Interrupted(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        prepare(runs)
        with tempfile.TemporaryDirectory(prefix="cowstore-tier-") as results:
            failed = execute(runs, extra, results, at_once=at_once)
            say(f"{options.plan}: {time.monotonic() - begun:.0f} s")
            return verdict(perdriver.added(Path(results)), failed, options.driver)
    except (packages.Missing, Interrupted, KeyboardInterrupt) as error:
        say(f"{options.plan}: {error!r}")
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
