"""``cowstore-run --tty``: a terminal of the container's own."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Session:
    """The command at a terminal."""

    def __init__(self, store: Path, *words: str, rows: int = 33, columns: int = 77) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(self.command(store, words), stdin=slave, stdout=slave, stderr=slave)
        self.seen = b""

    def command(self, store: Path, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", str(store), "--tty", *words]

    def until(self, text: bytes, timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536)

    def type(self, keys: bytes) -> None:
        self.seen = b""
        os.write(self.master, keys)

    def end(self) -> int:
        """Wait for the end; the terminal must be as it was."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        while select.select([self.master], [], [], 0.1)[0]:
            self.seen += os.read(self.master, 65536)
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.master)
        os.close(self.slave)
        return self.process.wait()


def test_a_terminal_of_its_own(tmp_path: Path) -> None:
    """RT-07: `tty` knows its name, /dev/stdout and /dev/tty can be opened; RT-05: it is not the caller's."""
    script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo x >/dev/stdout; echo y >/dev/tty"
    session = Session(tmp_path / "store", "--", "sh", "-c", f"{script}; exit 4")
    assert session.end() == 4
    assert session.seen == b"/dev/pts/0\r\n33 77\r\nall\r\nx\r\ny\r\n"


def test_it_is_the_users(tmp_path: Path) -> None:
    """RT-07."""
    session = Session(
        tmp_path / "store", "--user", "65534", "--", "sh", "-c", "echo y > /dev/stdout; stat -c %u:%a $(tty)"
    )
    assert session.end() == 0
    assert session.seen == b"y\r\n65534:620\r\n"


def test_keys_arrive_as_keys(tmp_path: Path) -> None:
    """Ctrl-C interrupts what runs in the foreground inside, and nothing of ours."""
    session = Session(tmp_path / "store", "--", "sh")
    session.until(b"# ")
    session.type(b"sh -c 'echo $((40+2)); exec sleep 100'\r")
    session.until(b"42\r\n")
    session.type(b"\x03")
    session.until(b"# ")
    session.type(b"exit 5\r")
    assert session.end() == 5


WINCHING = "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done"


def test_the_size_follows(tmp_path: Path) -> None:
    session = Session(tmp_path / "store", "--", "sh", "-c", WINCHING)
    session.until(b"up\r\n")
    fcntl.ioctl(session.slave, termios.TIOCSWINSZ, struct.pack("4H", 10, 20, 0, 0))
    session.process.send_signal(signal.SIGWINCH)
    assert session.end() == 0
    assert session.seen.endswith(b"10 20\r\n")


def test_the_terminal_is_given_back_also_when_nothing_runs(tmp_path: Path) -> None:
    session = Session(tmp_path / "store", "--", "no-such-program")
    assert session.end() == 127
    assert b"not found" in session.seen


def test_a_full_terminal_is_waited_for(tmp_path: Path) -> None:
    """Much more than any buffer holds, both ways."""
    session = Session(
        tmp_path / "store", "--", "sh", "-c", "seq 100000; stty raw -echo; echo go; head -c 200000 | wc -c"
    )
    session.until(b"go", 60)
    keys = b"x" * 200_000
    os.set_blocking(session.master, False)
    while keys:
        _, writable, _ = select.select([], [session.master], [], 10)
        assert writable
        keys = keys[os.write(session.master, keys) :]
        if select.select([session.master], [], [], 0)[0]:
            session.seen += os.read(session.master, 65536)
    os.set_blocking(session.master, True)
    assert session.end() == 0
    assert b"100000\r\n" in session.seen
    assert session.seen.rstrip().endswith(b"200000")


def test_without_a_terminal_outside(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", str(tmp_path / "store"), "--tty", "--"]
    done = subprocess.run([*command, "sh", "-c", "tty; cat"], input=b"in\n", capture_output=True, check=False)
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == [b"/dev/pts/0", b"in", b"in"]


PROGRAM = """
import signal, sys, cowstore
with cowstore.open(sys.argv[1], driver="overlay") as store:
    store.adopt("host", "/")
    with cowstore.spawn(store, parent="host", argv=["sh", "-c", sys.argv[2]], tty=True) as running:
        signal.signal(signal.SIGWINCH, lambda number, frame: running.kill(number))
        sys.exit(running.wait().status)
"""


class FromProgram(Session):
    """A program at a terminal, that runs another."""

    def command(self, store: Path, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-c", PROGRAM, str(store), *words]


def test_from_a_program(tmp_path: Path) -> None:
    session = FromProgram(tmp_path / "store", "tty; stty size; cat; " + WINCHING)
    session.until(b"/dev/pts/0\r\n33 77\r\n")
    session.type(b"line\r\x04")
    session.until(b"up\r\n")
    fcntl.ioctl(session.slave, termios.TIOCSWINSZ, struct.pack("4H", 10, 20, 0, 0))
    session.process.send_signal(signal.SIGWINCH)
    assert session.end() == 0
    assert session.seen == b"line\r\nline\r\nup\r\n10 20\r\n"


def test_from_a_program_whose_launcher_is_killed(tmp_path: Path) -> None:
    """The terminal is given back all the same."""
    session = FromProgram(tmp_path / "store", "echo up; sleep 1000")
    session.until(b"up\r\n")
    done = subprocess.run(["pgrep", "-P", str(session.process.pid)], capture_output=True, text=True, check=True)
    [fork_server] = done.stdout.split()
    done = subprocess.run(["pgrep", "-P", fork_server], capture_output=True, text=True, check=True)
    for launcher in done.stdout.split():
        os.kill(int(launcher), signal.SIGKILL)
    assert session.end() == 1
    assert b"was killed" in session.seen


def test_ctrl_z_stops_all_and_fg_goes_on(tmp_path: Path) -> None:
    """Without --tty the keys are the caller's: what Ctrl-Z sends stops what runs inside and the launcher itself."""
    command = [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", str(tmp_path / "store"), "--"]
    # One program alone: a shell is in the middle of vfork(2) now and then, and then not stopped before its child is.
    with subprocess.Popen([*command, "sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"up\n"
            running.send_signal(signal.SIGTSTP)
            pid, status = os.waitpid(running.pid, os.WUNTRACED)
            assert pid == running.pid
            assert os.WIFSTOPPED(status)
            deadline = time.monotonic() + 10
            while _state_of_the_program(running.pid) != "T":
                assert time.monotonic() < deadline, "the program goes on"
                time.sleep(0.02)
            running.send_signal(signal.SIGCONT)
            while _state_of_the_program(running.pid) == "T":
                assert time.monotonic() < deadline, "the program stays stopped"
                time.sleep(0.02)
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=10) == 143
        finally:
            running.kill()


def _state_of_the_program(launcher: int) -> str:
    """Tell the state of the child of process 1, which is the launcher's child."""
    [process_1] = subprocess.check_output(["pgrep", "-P", str(launcher)], text=True).split()
    [program] = subprocess.check_output(["pgrep", "-P", process_1], text=True).split()
    with open(f"/proc/{program}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]
