"""The suite ``peers``: cowstore beside the tools that one would otherwise use, each as its users run it.

The phases: *snapshot* (a writable child made and removed), *mount* (a child made, mounted, unmounted, removed),
*apply* (a root's archive made into a layer), *diff* (a child's changes, ten edits in a large tree, written as an
archive), *start* (``true`` run on a fresh child, to the end of both; tools without snapshots run it on the one root
they have). What a tool has no command for is named as absent, with the reason.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import ExitStack

from cowstore.bench import synthetic
from cowstore.bench.installed import minimal_root, process
from cowstore.bench.timing import timed, undisturbed
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cowstore.bench.results import Run
    from cowstore.bench.scratch import Scratch
    from cowstore.bench.timing import Step

    Steps = dict[str, Step]
    Maker = Callable[["Place", ExitStack], Steps]

PHASES = ("snapshot", "mount", "apply", "diff", "start")
TREE_FILES = 2000
LIMITS = ("nofile=1024:1024", "nproc=1024:1024")
"""What engines are told to set: what they set by default needs a privilege that a container's root has not."""


class Place:
    """What all peers are given.

    :ivar outer: where file systems can be made. :ivar root: the smallest root in which ``true`` runs, a directory.
    :ivar root_tar: the same as an archive. :ivar tree: a synthetic root. :ivar tree_tar: the same as an archive.
    :ivar image: an OCI layout of the smallest root, with the tag ``mini``. :ivar image_tar: an archive of that.
    :ivar tree_image_tar: an archive of an OCI image of the synthetic root, ``localhost/tree:latest``.
    """

    def __init__(self, outer: Scratch, run: Run) -> None:
        import cowstore

        seed = run.seed
        self.outer = outer
        self.scratch = scratch = outer.ground(4 << 30, run)
        self.root, self.tree = scratch.directory("root"), scratch.directory("tree")
        self.root_tar, self.tree_tar = f"{self.root}.tar", f"{self.tree}.tar"
        minimal_root(self.root)
        synthetic.grow(self.tree, synthetic.Recipe(TREE_FILES, seed=seed))
        self.recipe = synthetic.Recipe(TREE_FILES, seed=seed)
        for directory in (self.root, self.tree):
            subprocess.run(["tar", "-C", directory, "-cf", f"{directory}.tar", "."], check=True, timeout=300)
        self.image, self.image_tar = os.path.join(scratch.path, "image"), os.path.join(scratch.path, "image.tar")
        self.tree_image_tar = os.path.join(scratch.path, "tree-image.tar")
        with cowstore.open(os.path.join(scratch.directory("maker"), "store"), driver="overlay") as store:
            store.import_directory(self.root, name="mini")
            store.export_image("mini", self.image, ref="mini")
            store.export_image("mini", self.image_tar, ref="localhost/mini:latest")
            store.import_directory(self.tree, name="tree")
            store.export_image("tree", self.tree_image_tar, ref="localhost/tree:latest")

    def directory(self, name: str) -> str:
        """Make a directory for one peer."""
        return self.scratch.directory(name)


class Peer:
    """One tool.

    :ivar programs: what must be installed, and the Debian package that has it. :ivar make: prepares it, and returns its
        steps by phase. :ivar cannot: why it has none for the other phases.
    """

    def __init__(self, name: str, programs: dict[str, str], make: Maker, cannot: str) -> None:
        self.name, self.programs, self.make, self.cannot = name, programs, make, cannot

    def lacks(self) -> str | None:
        """Say what is missing, with the way to get it."""
        missing = [package for program, package in self.programs.items() if shutil.which(program) is None]
        return f"not installed: apt-get install {' '.join(missing)} (or make bench-peers)" if missing else None


PEERS: dict[str, Peer] = {}


def peer(name: str, cannot: str = "", **programs: str) -> Callable[[Maker], Maker]:
    """Enter a function into the list of peers."""

    def enter(make: Maker) -> Maker:
        PEERS[name] = Peer(name, programs, make, cannot)
        return make

    return enter


def load_peers() -> dict[str, Peer]:
    """Return all peers."""
    for name in ("peer_tools", "peer_engines"):
        __import__(f"cowstore.bench.{name}")
    return PEERS


def command(*words: str, **environment: str) -> Callable[[], None]:
    """Return a step that runs a program, its output thrown away."""
    return lambda: process(words, {**os.environ, **environment})


def said(*words: str) -> str:
    """Run a program and return what it prints.

    :raises CowstoreError: it failed; the message holds what it said.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        text = " ".join((done.stderr or done.stdout).split())[-300:]
        raise CowstoreError(f"{' '.join(words[:2])} failed with status {done.returncode}: {text}")
    return done.stdout.strip()


def peers_suite(run: Run, scratch: Scratch, say: Callable[[str], None], *, names: Sequence[str], rounds: int) -> None:
    """Measure all peers that are installed, phase by phase, interleaved."""
    from cowstore.bench.suites import pick

    chosen = pick(names, load_peers(), "peer")
    run.method += _own_namespace()
    with ExitStack() as stack:
        place = Place(scratch, run)
        steps: dict[str, Steps] = {}
        for name in chosen:
            say(name)
            reason = PEERS[name].lacks()
            if reason is None:
                try:
                    steps[name] = PEERS[name].make(place, stack)
                    without = [phase for phase in PHASES if phase not in steps[name]]
                    if without:
                        run.absent[f"{name}: {', '.join(without)}"] = PEERS[name].cannot
                    continue
                except (CowstoreError, OSError, subprocess.SubprocessError, ImportError) as error:
                    reason = " ".join(str(error).split())
            run.absent[name] = reason
        for phase in PHASES:
            say(phase)
            _phase(run, phase, {name: own[phase] for name, own in steps.items() if phase in own}, rounds)
    run.method.append(
        "Commands are timed as whole processes, libraries within this one; each as its own manual says, on one ext4. "
        f"apply and diff are of a root of {TREE_FILES} files, diff of 10 edits. apply ends on disk for cowstore, which "
        "promises that, and for tar, bsdtar and umoci, which are given a syncfs(2); the engines do as they do."
    )


def _own_namespace() -> list[str]:
    """Enter a mount namespace of this process's own, and hide the second cgroup tree of a hybrid system in it."""
    from cowstore._linux.mount import MountFlag, UmountFlag, mount, umount2
    from cowstore._linux.namespaces import CloneFlag, unshare

    unshare(CloneFlag.NEWNS)
    mount("", "/", "", MountFlag.REC | MountFlag.PRIVATE, "")
    if not os.path.isdir("/sys/fs/cgroup/unified"):
        return []
    umount2("/sys/fs/cgroup/unified", UmountFlag.DETACH)
    return ["The second cgroup tree of this hybrid system was hidden from the engines, of which crun refuses both."]


def _phase(run: Run, phase: str, steps: Steps, rounds: int) -> None:
    chance = random.Random(run.seed)  # noqa: S311  # an order that can be had again
    values: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(-1, max(3, rounds // 3) if phase == "apply" else rounds):
        chance.shuffle(names)
        for name in names:
            if f"{name}: {phase}" in run.absent:
                continue
            try:
                with undisturbed():
                    seconds = timed(steps[name])
            except (CowstoreError, OSError, subprocess.SubprocessError) as error:
                run.absent[f"{name}: {phase}"] = " ".join(str(error).split())
                continue
            if number >= 0:
                values[name].append(seconds)
    for name in PEERS:
        if values.get(name) and f"{name}: {phase}" not in run.absent:
            run.add("peers", name, phase, values[name])
