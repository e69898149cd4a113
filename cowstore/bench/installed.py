"""cowstore as its users have it: compiled once, in a directory of its own, run by the interpreter they have."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

from cowstore.bench.machine import below_home
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SYSTEM = "/usr/bin/python3"
_COMMAND = """\
import sys
from cowstore.cli.run import main
if __name__ == "__main__":
    sys.exit(main())
"""

_NAME = "import os, sys; print('Python', sys.version.split()[0], os.path.realpath(sys.executable))"


class Installed:
    """A copy of the package, with its byte code, for one interpreter.

    :ivar python: path of the interpreter. :ivar name: how figures name it: its version, and where it really is.
    :ivar environment: variables that make it find the copy. :ivar command: script of ``cowstore-run``.
    """

    def __init__(self, python: str, directory: str) -> None:
        self.python = python
        site = os.path.join(directory, "site")
        self.command = os.path.join(directory, "cowstore-run")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COWSTORE", "COVERAGE"))
        }
        self.environment["PYTHONPATH"] = site
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        shutil.copytree(package, os.path.join(site, "cowstore"), ignore=shutil.ignore_patterns("__pycache__"))
        with open(self.command, "w", encoding="utf-8") as file:
            file.write(_COMMAND)
        self.output("-m", "compileall", "-q", site)
        version, _, where = self.output("-c", _NAME).strip().rpartition(" ")
        self.name = f"{version} {below_home(where)}"

    def output(self, *arguments: str) -> str:
        """Run the interpreter and return what it prints.

        :raises CowstoreError: it failed.
        """
        done = subprocess.run(
            [self.python, *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode:
            said = (done.stderr.strip() or "nothing said")[-300:]
            raise CowstoreError(f"{self.python} {arguments[0]} failed: {said}")
        return done.stdout

    def run_command(self, *arguments: str) -> list[str]:
        """Return the command line of ``cowstore-run`` with these arguments."""
        return [self.python, self.command, *arguments]


def interpreters() -> list[str]:
    """List the interpreters to measure with: this one, and the distribution's where that is another."""
    found = [sys.executable]
    if os.path.exists(_SYSTEM) and os.path.realpath(_SYSTEM) != os.path.realpath(sys.executable):
        script = "import sys; sys.exit(sys.version_info < (3, 11))"
        if subprocess.run([_SYSTEM, "-c", script], check=False, timeout=60).returncode == 0:
            found.append(_SYSTEM)
    return found


def process(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a program to its end, its output thrown away.

    :raises CowstoreError: it failed; the message holds what it said.
    """
    said = os.memfd_create("said")
    try:
        actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, said, 2)]
        pid = os.posix_spawnp(argv[0], list(argv), dict(environment), file_actions=actions)
        try:
            _, status = os.waitpid(pid, 0)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        if status:
            code = os.waitstatus_to_exitcode(status)
            text = " ".join(os.pread(said, 4096, max(0, os.fstat(said).st_size - 300)).decode(errors="replace").split())
            raise CowstoreError(f"{' '.join(argv[:4])} ended with status {code}: {text or 'nothing said'}")
    finally:
        os.close(said)


def minimal_root(directory: str) -> None:
    """Fill *directory* with the smallest root in which ``true`` runs: the program, and the libraries it names."""
    program = os.path.realpath(shutil.which("true") or "/bin/true")
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, timeout=60).stdout
    wanted = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    for path in dict.fromkeys([program, *wanted]):
        target = os.path.join(directory, path.lstrip("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(path, target)
    target = os.path.join(directory, "bin/true")
    if not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(program, target)
    for name in ("proc", "sys", "dev", "tmp", "etc"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
