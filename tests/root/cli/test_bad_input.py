"""Whatever is wrong: the right status, one line, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import cowstore
from cowstore.runtime.remote import server
from tests.root.cli.test_run import Runner, tree

__all__ = ["tree"]

HOG = ["/usr/bin/python3", "-I", "-S", "-c", "bytearray(256 << 20)"]
FULL = "for i in $(seq 2000); do echo 0123456789012345678901234567890123456789012345678901234567890123; done; exit 3"


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """The command, whose store has a base of this machine's."""
    made = Runner(tmp_path / "store")
    made("--", "true")
    return made


def left(run: Runner) -> tuple[object, ...]:
    """Count what a run could leave behind."""
    mounts = Path("/proc/self/mountinfo").read_text().count(str(run.root))
    groups = {str(path) for path in Path("/sys/fs/cgroup").rglob("cowstore-run-*") if _is_ours(path)}
    processes = subprocess.run(["pgrep", "-f", str(run.root)], capture_output=True, check=False).stdout
    return mounts, groups, processes, run.kept()


def _is_ours(path: Path) -> bool:
    """Tell whether a group is of a run of this test: others run at the same time."""
    try:
        return not (path / "cgroup.procs").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--", "no-such-program"], 127, "not found"),
        (["--", ""], 127, "empty"),
        (["--", "/etc"], 126, "a directory"),
        (["--", "/etc/passwd"], 126, "executable bit"),
        (["--bind", "/no/such/source:/srv", "--", "true"], 125, "/no/such/source: No such file"),
        (["--bind", "/etc:/proc/self/fd/1/x", "--", "true"], 125, "cannot bind"),
        (["--bind", "/etc:/etc/passwd", "--", "true"], 125, "cannot bind"),
        (["--bind", "relative", "--", "true"], 125, "no bind"),
        (["--user", "nobody-here", "--", "true"], 125, "there is no user 'nobody-here'"),
        (["--user", "4294967295", "--", "true"], 125, "there is no user"),
        (["--workdir", "/no/such", "--", "true"], 125, "/no/such: No such file"),
        (["--workdir", "relative", "--", "true"], 125, "absolute path"),
        (["--memory", "1K", "--", "true"], 125, "too few"),
        (["--pids", "1", "--", "true"], 125, "2 or more"),
        (["--cpus", "0", "--", "true"], 125, "above 0"),
        (["--seccomp", "/no/such", "--", "true"], 125, "cannot read the seccomp profile"),
        (["--seccomp", "/etc/passwd", "--", "true"], 125, "no seccomp profile"),
        (["--cap-add", "nonsense", "--", "true"], 125, "no capability 'nonsense'"),
        (["--tmpfs", "relative", "--", "true"], 125, "no tmpfs"),
        (["--limits", "always", "--", "true"], 125, "best-effort"),
        (["--runtime", "docker", "--", "true"], 125, "crun or runc"),
        (["--hostname", "x" * 65, "--", "true"], 125, "1 to 64 bytes"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_use(run: Runner, words: list[str], status: int, says: str) -> None:
    before = left(run)
    assert says in run.fails(*words, status=status)
    assert left(run) == before


def test_a_wrong_interpreter_and_a_target_that_leads_out(run: Runner, tmp_path: Path) -> None:
    with cowstore.open(run.root) as store:
        store.prepare("work", "cowstore-run:/")
        with store.mounted("work") as root:
            (root / "srv/bad").write_text("#!/no/such/sh\n")
            (root / "srv/bad").chmod(0o755)
            (root / "srv/out").symlink_to(f"../../../../../..{tmp_path}/outside")
        store.commit("image", "work")
    before = left(run)
    assert "interpreter" in run.fails("--base", "image", "--", "/srv/bad", status=126)
    assert run("--base", "image", "--bind", "/etc/hostname:/srv/out", "--", "cat", "/srv/out")
    assert not (tmp_path / "outside").exists()
    assert left(run) == before


def test_hogs_bombs_and_the_deaf(run: Runner) -> None:
    before = left(run)
    assert "out of memory" in run.fails("--memory", "64M", "--", *HOG, status=137)
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 100"
    assert run.run("--pids", "50", "--timeout", "1", "--", "sh", "-c", bomb).returncode in {124, 2}
    run("--timeout", "0.3", "--", "sh", "-c", "trap '' TERM; while :; do sleep 1; done", status=124)
    assert left(run) == before


def test_an_image_says_what_ends_its_program(run: Runner) -> None:
    """StopSignal, when the time is over; one that is answered in time is not followed by SIGKILL."""
    script = "trap 'echo asked; exit 5' INT; trap 'echo wrong' TERM; echo up; while :; do sleep 0.05; done"
    config = {"Cmd": ["sh", "-c", script], "StopSignal": "SIGINT"}
    with cowstore.open(run.root) as store:
        store.prepare("work", "cowstore-run:/")
        store.commit("image", "work", labels={"cowstore.image.config": json.dumps({"config": config})})
    assert run("--base", "image", "--timeout", "1", status=124) == "up\nasked\n"
    with cowstore.open(run.root) as store:
        done = cowstore.run(store, parent="image", timeout_s=1, capture=True)
        assert (done.status, done.timed_out, done.out) == (5, True, b"up\nasked\n")
    server.stop()


def test_a_limit_that_this_machine_cannot_enforce(run: Runner) -> None:
    """RT-17: an error that names the controller, or a warning where that was asked for."""
    hiding = 'for m in $(grep -o " /sys/fs/cgroup[^ ]*" /proc/mounts | sort -r); do umount -l $m; done; exec "$@"'

    def hidden(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--mount", "sh", "-c", hiding, "sh", *run.command(*words, "--", "echo", "ran")]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    done = hidden("--pids", "20")
    assert (done.returncode, done.stdout) == (125, "")
    assert "cannot limit pids: this machine has no pids controller" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = hidden("--pids", "20", "--limits", "best-effort")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.startswith("cowstore-run: pids is not limited: this machine has no pids controller")
    done = hidden()
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_nobody_reads_what_it_writes(run: Runner, tree: Path) -> None:
    """A full pipe is waited for, and a terminal as well (see test_run_tty.py); the program's status is kept."""
    read, write = os.pipe()
    running = subprocess.Popen(
        run.command("--base", str(tree), "--", "sh", "-c", "while echo x; do :; done"), stdout=write
    )
    os.close(write)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(1)
    os.close(read)
    assert running.wait(10) in {0, 1, 2, 128 + signal.SIGPIPE}


def test_the_plan_is_only_printed(run: Runner, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    options = f"--memory 64M --pids 20 --network user --tty --user 1000 --tmpfs /scratch:1M --bind {tmp_path}:/srv:ro"
    before = left(run)
    lines = run(*options.split(), "--print-plan", "--", "touch", str(marker)).splitlines()
    assert left(run) == before
    assert not marker.exists()
    for step in ("make groups", "find helper", "bind", "mount tmpfs", "open terminal", "become user", "execute"):
        assert any(f": {step}" in line for line in lines), (step, lines)


def test_help_fits_on_one_screen(run: Runner) -> None:
    lines = run("--help").splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 110
