"""``cowstore bundle``, and ``cowstore-run --runtime``: containers made by other people's runtimes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from tests.root.cli.shell import Shell
from tests.root.cli.test_run import Runner
from tests.root.runtime.test_bundle import RUNTIMES
from tests.tiers import need_program

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path / "store", "overlay")
    made("prepare", "work", "--parent", adopted(tmp_path / "store"))
    yield made
    subprocess.run(["umount", "-q", tmp_path / "b/rootfs"], check=False)


def adopted(root: Path) -> str:
    """Make this machine's root a layer of a store; returns its key."""
    with cowstore.open(root, driver="overlay") as store:
        store.adopt("host", "/")
    return "host"


@pytest.mark.parametrize("name", RUNTIMES)
def test_bundle(shell: Shell, tmp_path: Path, name: str) -> None:
    need_program(name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/in").write_text("in\n")
    script = (
        "id -u; echo $A; pwd; cat /proc/sys/kernel/hostname /data/in; df --output=size /scratch | tail -n 1; exit 4"
    )
    options = (
        f"--user 65534 --env A=1 --workdir /usr --hostname inside --bind {tmp_path}/data:/data:ro --tmpfs /scratch:1M"
    )
    words = ["bundle", "work", f"{tmp_path}/b", *options.split(), "--", "sh", "-c", script]
    assert shell(*words) == f"{tmp_path}/b\n"
    command = [*RUNTIMES[name], "run", "--bundle", str(tmp_path / "b"), f"cowstore-test-{os.getpid()}-{name}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (4, ["65534", "1", "/usr", "inside", "in", "1024"]), done.stderr
    assert "it is mounted" in shell.fails("rm", "work")
    shell("umount", tmp_path / "b/rootfs")
    shell("rm", "work")


def test_bundle_says_where_and_what_is_wrong(shell: Shell, tmp_path: Path) -> None:
    found = shell.json("bundle", "work", tmp_path / "b", "--", "true")
    assert found == {
        "bundle": f"{tmp_path}/b",
        "config": f"{tmp_path}/b/config.json",
        "root": f"{tmp_path}/b/rootfs",
    }
    assert json.loads((tmp_path / "b/config.json").read_text())["process"]["args"] == ["true"]
    assert "not empty" in shell.fails("bundle", "work", tmp_path / "b", "--", "true")
    assert "no snapshot 'nobody'" in shell.fails("bundle", "nobody", tmp_path / "c", "--", "true")
    assert "no program" in shell.fails("bundle", "work", tmp_path / "c")
    shell("umount", tmp_path / "b/rootfs")


@pytest.fixture(params=["runc", "crun"])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    """The command, with containers left to a runtime."""
    need_program(request.param)

    class LeftTo(Runner):
        def command(self, *words: str | os.PathLike[str]) -> list[str]:
            return super().command("--runtime", request.param, *words)

    return LeftTo(tmp_path / "store")


def groups() -> set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").rglob("cowstore-run-*")}


def test_statuses(left: Runner) -> None:
    """RT-04: the same as those of our own launcher, also where the runtime has one for all that goes wrong."""
    for words, status in (
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "exit 125"], 125),
        (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
    ):
        assert left.run("--", *words).returncode == status
    assert "not found" in left.fails("--", "no-such-program", status=127)
    assert "executable bit" in left.fails("--", "/etc/passwd", status=126)
    assert "a directory" in left.fails("--", "/etc", status=126)
    assert "there is no user 'nobody-here'" in left.fails("--user", "nobody-here", "--", "true")
    done = left.run("--bind", "/etc/passwd:/etc", "--", "true")
    assert done.returncode == 125
    assert b"the runtime could not start the program" in done.stderr


def test_what_it_changes(left: Runner) -> None:
    before = groups()
    out = left("--changes", "--commit", "marked", "--", "sh", "-c", "echo x > /srv/mark")
    assert "A srv/mark\n" in out
    assert left("--base", "marked", "--read-only", "--", "cat", "/srv/mark") == "x\n"
    assert left.kept() == {"cowstore-run:/", "marked"}
    assert groups() <= before


def test_isolation(left: Runner) -> None:
    script = "echo $$; ls /sys/class/net; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; ls -A $0 | wc -l"
    out = left("--hostname", "inside", "--", "sh", "-c", script, left.root).split()
    assert out == ["1", "lo", "CapEff:", "00000000800405fb", "NoNewPrivs:", "1", "Seccomp:", "2", "0"]
    assert left("--seccomp", "none", "--", "grep", "Seccomp:", "/proc/self/status") == "Seccomp:\t0\n"
    script = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname()); print('reached')"
    )
    assert left("--", "python3", "-c", script) == "reached\n"


def test_device_nodes_of_the_image_open_nothing(left: Runner) -> None:
    left("--commit", "base", "--", "true")
    with cowstore.open(left.root) as store:
        store.prepare("work", "base")
        with store.mounted("work") as root:
            os.mknod(root / "srv/null", 0o20666, os.makedev(1, 3))
        store.commit("nodes", "work")
    for more in ([], ["--read-only"]):
        assert b"Permission denied" in left.run("--base", "nodes", *more, "--", "cat", "/srv/null").stderr


def test_limits(left: Runner) -> None:
    done = left.run("--memory", "64M", "--", "/usr/bin/python3", "-c", "bytearray(256 << 20)")
    assert done.returncode == 137
    assert b"out of memory" in done.stderr
    before = groups()
    left("--timeout", "0.5", "--", "sh", "-c", "trap '' TERM; while :; do sleep 1; done", status=124)
    assert groups() <= before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals(left: Runner, number: signal.Signals) -> None:
    """RT-02: also for a program without a handler, although it is process 1."""
    running = subprocess.Popen(left.command("--", "sh", "-c", "echo up; exec sleep 100"), stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    time.sleep(0.2)
    started = time.monotonic()
    running.send_signal(number)
    assert running.wait(timeout=10) == 128 + number
    assert time.monotonic() - started < 2
    running.stdout.close()


def test_killed_it_leaves_nothing(left: Runner) -> None:
    """RT-24: the program ends with the launcher, and the next one takes away the control groups."""
    running = subprocess.Popen(left.command("--", "sh", "-c", "echo up; exec sleep 4321"), stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    running.kill()
    running.wait()
    running.stdout.close()
    deadline = time.monotonic() + 1
    while b"4321" in (found := subprocess.run(["pgrep", "-fa", "sleep 4321"], capture_output=True, check=False).stdout):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    left("--", "true")
    assert left.kept() == {"cowstore-run:/"}


def test_one_that_is_not_installed(tmp_path: Path) -> None:
    """Shown a machine without it: the error names the package."""
    run = Runner(tmp_path / "store")
    run("--", "true")
    empty = tmp_path / "empty"
    empty.write_text("")
    script = 'for f in /usr/bin/crun /usr/local/bin/crun; do test -e $f && mount --bind "$0" $f; done; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, str(empty), *run.command("--runtime", "crun", "--", "true")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 125
    assert done.stderr == "cowstore-run: crun is not installed: on Debian it is in the package crun\n"


def test_a_terminal(left: Runner) -> None:
    from tests.root.cli.test_run_tty import Session

    name = left.command()[left.command().index("--runtime") + 1]
    session = Session(left.root, "--runtime", name, "--", "sh", "-c", "tty; stty size; exit 4")
    assert session.end() == 4
    assert session.seen.startswith(b"/dev/pts/0\r\n33 77\r\n")
