"""What the kernel tier runs in its guests: ``python -m tests.vm.tier kernel|kernel-smp|kernel-full [--driver NAME]…``.

Guests run side by side where the processors are there. What each said is printed when it has ended; the last lines are
one for each driver. The exit status is 0 if all passed, 3 if a driver asked for by name could not be proven on the
kernel, 1 otherwise; further arguments go to pytest, those that name tests instead of the tier's own choice.

An emulated processor is ten to twenty times slower than a real one: one driver's whole suite takes hours there, so how
far it has come is said every few minutes. ``--timeout SECONDS`` ends each guest after another time.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests import perdriver
from tests.vm import packages
from tests.vm.guest import LAUNCHER_FAILED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FAILED, NOT_PROVEN = 1, 3
MAY_LACK_A_KERNEL = frozenset({"aufs"})
"""Drivers whose kernel somebody else builds: one that does not boot proves nothing; for others that is a failure."""
# One processor that counts each kernel call dearly, or two that are emulated: a test may take longer than elsewhere.
TEST_SECONDS = 400
EMULATED_TEST_SECONDS = 3600
EMULATED_SECONDS = 6 * 3600
HEARTBEAT_SECONDS = 120
SUITE = ("cases", "machine", "faults", "model", "crowd")
CAUGHT = "tests/conformance/test_mutants.py::test_caught"
SMOKE, SNAPSHOTS, UDEV = (f"tests/vm/drivers/devicemapper/test_{name}.py" for name in ("smoke", "snapshots", "udev"))
FEW_FAULTS = "every_point and (prepare or mount or commit)"
FEW_CROWDS = "threads_on_one or same_key or eight_processes or forty"


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
    processors: int = 2
    seconds: int = 2000
    test_seconds: int = TEST_SECONDS
    asks_first: bool = False
    environment: tuple[str, ...] = ()

    def command(self, extra: Sequence[str], results: str) -> list[str]:
        """The launcher's arguments; in the guest pytest runs on the installed package, as in the other tiers."""
        chosen = [*extra] if any(one.startswith("tests") for one in extra) else [*self.arguments, *extra]
        inside = [
            "env", *self.environment, f"COWSTORE_TEST_DRIVERS={','.join(self.drivers)}",
            f"{perdriver.DIRECTORY}={results}", sys.executable, "-P", "-m", "pytest", "-q", "--durations=5",
            "-o", f"timeout={self.test_seconds}", *chosen,
        ]  # fmt: skip
        if self.asks_first:
            ask = shlex.join([sys.executable, "-m", "tests.conformance.ground", *self.drivers])
            inside = ["sh", "-c", f"{ask} && exec {shlex.join(inside)}"]
        return [
            sys.executable, "-m", "tests.vm", self.kind, "--time", "--memory", self.memory, "--scratch", self.scratch,
            "--processors", str(self.processors), "--timeout", str(self.seconds), "--results", results,
            *(["--udevd"] if self.udevd else []), "--", *inside,
        ]  # fmt: skip


def suite(*parts: str) -> tuple[str, ...]:
    return tuple(f"tests/conformance/test_{part}.py" for part in parts)


LIMITS = ("tests/root/drivers/test_quota.py", "tests/root/drivers/test_image.py")
"""Sizes of overlay's and copy's snapshots: the root tier's kernel may have no quotas, and its root no right to grow."""

DEVICEMAPPER = Run(
    name="devicemapper",
    drivers=("devicemapper",),
    arguments=("tests/vm", *suite("machine", "cases", "model", "crowd", "faults"), CAUGHT),
)
BESIDE_UDEV = dataclasses.replace(DEVICEMAPPER, name="devicemapper beside a udev daemon", udevd=True)
DIRECTORIES = Run(
    name="overlay, btrfs, copy",
    drivers=("overlay", "btrfs", "copy"),
    scratch="btrfs",
    arguments=(*LIMITS, *suite("sized", "machine", "cases", "model", "crowd", "faults"), CAUGHT),
)
TWO_PROCESSORS = Run(
    name="devicemapper on two processors",
    kind="qemu",
    drivers=("devicemapper",),
    memory="2G",
    seconds=3 * 3600,
    test_seconds=1200,
    arguments=(SMOKE, SNAPSHOTS, *suite("crowd"), "-k", "smoke or crowd or threads or mounted_origin"),
)
# Over devicemapper without a udev daemon all but kills during a recovery from a kill; beside one, all cases but the
# deepest stacks, the state machine, and a kill at every point (planted bugs are none of a daemon's). For the others
# what another kernel does differently, since the root tier runs all of it. Of four that begin together, the first and
# the third share one processor of two, the others the other one: in this order both have as much to do.
PLANS: dict[str, tuple[Run, ...]] = {
    "kernel": (
        dataclasses.replace(
            DEVICEMAPPER, name="devicemapper: cases and its own tests", arguments=("tests/vm", *suite("cases"))
        ),
        dataclasses.replace(
            DEVICEMAPPER,
            name="devicemapper: machine, scripts, faults, crowds",
            environment=("COWSTORE_CROWD_SEEDS=2",),
            arguments=(*suite("machine", "model", "faults", "crowd"), CAUGHT, "-k", "not killed_again"),
        ),
        dataclasses.replace(
            BESIDE_UDEV,
            name="devicemapper beside a udev daemon: machine, faults",
            arguments=(*suite("machine", "faults"), "-k", "not killed_again"),
        ),
        dataclasses.replace(
            BESIDE_UDEV,
            name="devicemapper beside a udev daemon: cases",
            arguments=(UDEV, *suite("cases"), "-k", "not (depth.around or layers_128)"),
        ),
        dataclasses.replace(
            DIRECTORIES,
            arguments=(
                *LIMITS,
                *suite("machine", "cases", "faults"),
                "-k",
                f"not (copy- and test_cases) and (not slow or ({FEW_FAULTS}))",
            ),
        ),
    ),
    "kernel-smp": (
        dataclasses.replace(
            TWO_PROCESSORS,
            seconds=1200,
            environment=("COWSTORE_CROWD_SEEDS=1",),
            arguments=(
                SMOKE,
                SNAPSHOTS,
                *suite("crowd"),
                "-k",
                f"(smoke or mounted_origin or ({FEW_CROWDS})) and not fifty",
            ),
        ),
    ),
    "kernel-full": (
        *(dataclasses.replace(run, seconds=3 * 3600) for run in (DEVICEMAPPER, DIRECTORIES, BESIDE_UDEV)),
        TWO_PROCESSORS,
    ),
}


class Interrupted(Exception):
    """A signal asked for the end."""


def one_driver(plan: str, driver: str) -> tuple[Run, ...]:
    """The whole suite over one driver, in a guest of the plan's kind."""
    kind = PLANS[plan][0].kind
    own = (f"tests/vm/drivers/{driver}",) if os.path.isdir(f"tests/vm/drivers/{driver}") else ()
    if kind == "uml":
        arguments = (*own, *suite(*SUITE, "mutants"))
        return (Run(name=driver, drivers=(driver,), kind=kind, memory="2G", seconds=6000, arguments=arguments),)
    # Two emulators are more than one with two processors; these halves take about as long as each other.
    half = Run(
        name=f"{driver}, one half",
        drivers=(driver,),
        kind=kind,
        processors=1,
        seconds=EMULATED_SECONDS,
        test_seconds=EMULATED_TEST_SECONDS,
        asks_first=True,
        arguments=(*own, *suite("machine", "cases", "crowd")),
    )
    return half, dataclasses.replace(half, name=f"{driver}, other half", arguments=suite("model", "faults", "mutants"))


def place(run: Run, taken: Sequence[set[int]]) -> set[int]:
    """Choose the processors that a guest gets when others have *taken* theirs.

    A user-mode guest has one processor: its processes take turns. Where each turn is another processor's, waking that
    one up takes as long as the turn itself.
    """
    processors = os.sched_getaffinity(0)
    if run.kind != "uml":
        return processors
    return {min(sorted(processors), key=lambda one: sum(one in others for others in taken))}


def execute(runs: Sequence[Run], extra: Sequence[str], results: str, *, at_once: int) -> dict[str, int]:
    """Run guests, at most so many at once; returns name and status of those that did not pass."""
    waiting: list[Run] = list(runs)
    failed: dict[str, int] = {}
    heard = time.monotonic()
    running: dict[subprocess.Popen[bytes], tuple[Run, Path, set[int]]] = {}
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
                on = place(run, [taken for _, _, taken in running.values()])
                os.sched_setaffinity(process.pid, on)
                running[process] = run, log, on
            for process in [process for process in running if process.poll() is not None]:
                run, log, _ = running.pop(process)
                say(f"{run.name}: ended with status {process.returncode}; it said:")
                sys.stdout.write(log.read_text(errors="replace"))
                if process.returncode:
                    failed[run.name] = process.returncode
            if time.monotonic() - heard > HEARTBEAT_SECONDS:
                heard = time.monotonic()
                for run, log, _ in running.values():
                    lines = log.read_text(errors="replace").split("\n")
                    say(f"{run.name}: {lines[-1] or lines[-2:-1]}")
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


def verdict(tally: perdriver.Tally, failed: Mapping[str, int], asked: Sequence[str]) -> int:
    """Print the last lines, and return the exit status."""
    excused = {NOT_PROVEN, LAUNCHER_FAILED} if set(asked) <= MAY_LACK_A_KERNEL else {NOT_PROVEN}
    if asked and failed and set(failed.values()) <= excused:
        say("the kernel does not have it, or could not be used as a guest's; what was said is above")
        for driver in asked:
            print(f"{driver}: not proven on this kernel", flush=True)
        return NOT_PROVEN
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
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="end each guest after this")
    options, extra = parser.parse_known_args(arguments)
    runs = [run for driver in options.driver for run in one_driver(options.plan, driver)] or list(PLANS[options.plan])
    if options.timeout:
        runs = [dataclasses.replace(run, seconds=options.timeout) for run in runs]
    # An emulated guest of several processors takes the whole machine.
    processors = len(os.sched_getaffinity(0))
    emulated = max((run.processors for run in runs if run.kind == "qemu"), default=0)
    # A user-mode guest waits a part of its time, for a daemon or for what is to end: two share a processor.
    at_once = max(1, processors // emulated) if emulated else 2 * processors
    if any(extra_word.startswith("tests") for extra_word in extra):
        # They were chosen by hand: all of them in one guest.
        runs = runs[:1]
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
