"""``cowstore-run``, as people use it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import cowstore

RUN = [sys.executable, "-P", "-m", "cowstore.cli.run"]


class Runner:
    """Runs the command on one store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, *words: str | os.PathLike[str]) -> list[str]:
        return [*RUN, "--store", str(self.root), *(str(word) for word in words)]

    def __call__(self, *words: str | os.PathLike[str], status: int = 0) -> str:
        done = self.run(*words)
        assert done.returncode == status, (done.returncode, done.stderr, done.stdout)
        return done.stdout.decode("utf-8", "surrogateescape")

    def run(self, *words: str | os.PathLike[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.command(*words), capture_output=True, timeout=60, check=False)

    def fails(self, *words: str | os.PathLike[str], status: int = 125) -> str:
        """Run what must fail, with one line on standard error, and return that line."""
        done = self.run(*words)
        assert done.returncode == status, (done.returncode, done.stderr)
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("cowstore-run: ")
        return lines[0]

    def kept(self) -> set[str]:
        with cowstore.open(self.root) as store:
            return {snapshot.key for snapshot in store.walk()}


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "store")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small root: a shell and what it is linked with."""
    root = tmp_path_factory.mktemp("image") / "root"
    for name in ("proc", "sys", "dev", "etc", "tmp"):
        (root / name).mkdir(parents=True)
    for program in ("/bin/sh", "/bin/cat", "/bin/ls", "/bin/true"):
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        words = [word for word in linked.split() if word.startswith("/")]
        for path in [program, *words]:
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(Path(path).read_bytes())
            target.chmod(0o755)
    (root / "etc/os-release").write_text("NAME=small\n")
    return root


def test_a_copy_of_this_machine_that_leaves_it_alone(run: Runner) -> None:
    out = run("--changes", "--", "sh", "-c", "rm -rf /etc/apt; echo gone > /marker; echo said")
    assert out.replace("M .\n", "") == "said\nM etc\nD etc/apt\nA marker\n"
    assert os.path.isdir("/etc/apt")
    assert not os.path.exists("/marker")
    assert run.kept() == {"cowstore-run:/"}
    assert run("--changes", "true") == ""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "exit 125"], 125),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-program"], 127),
        (["/etc"], 126),
        (["/etc/passwd"], 126),
    ],
)
def test_exit_statuses(run: Runner, words: list[str], status: int) -> None:
    """RT-04."""
    done = run.run(*words)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == (1 if status in {126, 127} else 0)


def test_options_behind_the_program_are_its_own(run: Runner) -> None:
    """CL-03."""
    assert run("ls", "--help").startswith("Usage: ls ")
    assert run("sh", "-c", 'echo "$@"', "x", "-v", "--rm") == "-v --rm\n"


def _commands() -> list[bytes]:
    """Return the command lines of all processes."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{name}/cmdline").read_bytes())
    return found


@pytest.mark.parametrize("more", [[], ["--as-pid-1"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_end_a_sleeper(run: Runner, number: signal.Signals, more: list[str]) -> None:
    """RT-02: within a second, as outside, whether or not the program is process 1."""
    run("true")
    running = subprocess.Popen(run.command(*more, "--", "sh", "-c", "echo up; exec sleep 100"), stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    # dash handles SIGINT itself until it has become the sleeper.
    started = time.monotonic()
    while b"sleep\x00100\x00" not in _commands():
        assert time.monotonic() - started < 10
        time.sleep(0.005)
    running.send_signal(number)
    started = time.monotonic()
    assert running.wait(timeout=10) == 128 + number
    assert time.monotonic() - started < 1
    running.stdout.close()
    assert run.kept() == {"cowstore-run:/"}


def test_a_program_that_handles_a_signal_gets_it(run: Runner) -> None:
    """RT-02."""
    for more in ([], ["--as-pid-1"]):
        script = "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done"
        running = subprocess.Popen(run.command(*more, "sh", "-c", script), stdout=subprocess.PIPE)
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        running.terminate()
        assert running.stdout.read() == b"got\n"
        assert running.wait(timeout=10) == 5
        running.stdout.close()


def test_no_zombie_stays(run: Runner) -> None:
    """RT-01: twenty orphans, and none of them is left when they have ended."""
    script = (
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (sleep 0.1 &) ; done; sleep 0.5; "
        "cat /proc/[0-9]*/stat | grep -c ' Z ' || true; exit 3"
    )
    assert run("sh", "-c", script, status=3) == "0\n"


def test_the_programs_end_is_the_end_of_all(run: Runner) -> None:
    """RT-01: what it leaves running ends with it, and holds nothing open."""
    started = time.monotonic()
    assert run("sh", "-c", "setsid sleep 100 & sleep 100 & echo done") == "done\n"
    assert time.monotonic() - started < 5


def test_killed_at_any_moment_it_leaves_nothing(run: Runner) -> None:
    """RT-24: a hundred times within its first moments; the snapshots go when the store is opened again."""
    run("true")
    random.seed(24)
    mark = "87654.5"
    for number in range(100):
        words = ["--as-pid-1"] if number % 2 else []
        running = subprocess.Popen(run.command(*words, "--", "sleep", mark))
        time.sleep(random.uniform(0.0, 0.09))
        running.kill()
        running.wait()
    deadline = time.monotonic() + 2
    while _running(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _running(mark) == []
    assert run("true") == ""
    assert run.kept() == {"cowstore-run:/"}
    assert str(run.root) not in Path("/proc/self/mountinfo").read_text()
    with cowstore.open(run.root) as store:
        assert store.check() == ()


def _running(argument: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().split(b"\0")[-2:-1] == [argument.encode()]:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_an_archive_is_imported_once(run: Runner, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "small.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, ".")
    assert run("--base", archive, "cat", "/etc/os-release") == "NAME=small\n"
    [key] = run.kept()
    assert run("--base", archive, "--changes", "true") == ""
    assert run.kept() == {key}
    # The same bytes under another name, and the same name with other times, are the same archive.
    copy = tmp_path / "copy.tar"
    copy.write_bytes(archive.read_bytes())
    os.utime(archive, (1, 1))
    run("--base", copy, "true")
    run("--base", archive, "true")
    assert run.kept() == {key}


@pytest.mark.parametrize("driver", ["overlay", "copy"])
def test_a_directory_is_adopted_or_imported(run: Runner, tree: Path, driver: str) -> None:
    assert run("--driver", driver, "--base", tree, "cat", "/etc/os-release") == "NAME=small\n"
    assert run.kept() == {f"cowstore-run:{tree.resolve()}"}
    done = run.run("--base", tree, "--changes", "--", "sh", "-c", "echo x > /etc/new")
    assert done.stdout == b"M etc\nA etc/new\n"
    assert (b"to import it again" in done.stderr) == (driver == "copy")
    assert not (tree / "etc/new").exists()


def test_commit_and_keep(run: Runner, tree: Path) -> None:
    run("--base", tree, "--commit", "one", "--", "sh", "-c", "echo 1 > /etc/one")
    assert run("--base", "one", "cat", "/etc/one") == "1\n"
    run("--base", "one", "--keep", "kept", "--", "sh", "-c", "echo 2 > /etc/two")
    with cowstore.open(run.root) as store:
        assert store.stat("kept").parent == "one"
        assert store.stat("kept").kind == "active"
        assert [change.path for change in store.changes("kept")] == ["etc", "etc/two"]
    assert "is active, not committed" in run.fails("--base", "kept", "true")
    assert "there is a committed snapshot of that name already" in run.fails("--base", tree, "--commit", "one", "true")
    assert "'kept'" in run.fails("--base", "one", "--keep", "kept", "true")
    # A program that never ran leaves nothing to commit.
    run("--base", "one", "--commit", "never", "no-such-program", status=127)
    assert "never" not in run.kept()


def test_environment_and_directory(run: Runner, tree: Path, tmp_path: Path) -> None:
    assert run(
        "--base", tree, "--env", "A=b c", "--", "sh", "-c", "echo $A; echo $PATH; pwd; export -p | wc -l || true"
    ).splitlines()[:3] == [
        "b c",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "/",
    ]
    assert run("--base", tree, "--workdir", "/etc", "--", "sh", "-c", "pwd") == "/etc\n"
    assert "/no/such: No such file" in run.fails("--base", tree, "--workdir", "/no/such", "true")
    done = subprocess.run(run.command("--", "pwd"), cwd="/usr/share", capture_output=True, check=True)
    assert done.stdout == b"/usr/share\n"
    assert run("--hostname", "inside", "--", "cat", "/proc/sys/kernel/hostname") == "inside\n"


def test_read_only(run: Runner, tree: Path) -> None:
    assert run("--read-only", "--base", tree, "--", "sh", "-c", "echo x > /etc/x || echo refused") == "refused\n"
    assert len(run.kept()) == 1


def test_with_mounts(run: Runner, tmp_path: Path) -> None:
    """RT-28: other mounts are empty directories, or show read-only."""
    outside = tmp_path / "mounted"
    outside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "cowstore-test", outside], check=True)
    try:
        (outside / "file").write_text("here\n")
        assert run("--", "ls", outside) == ""
        assert run("--with-mounts", "--", "cat", outside / "file") == "here\n"
        script = f"echo x > {outside}/file || echo refused"
        assert run("--with-mounts", "--", "sh", "-c", script) == "refused\n"
        assert run("--with-mounts", "--", "ls", "-A", run.root) == ""
    finally:
        subprocess.run(["umount", outside], check=True)


def test_a_machine_whose_usr_is_a_mount_is_refused_with_the_way_out(run: Runner, tmp_path: Path) -> None:
    """RT-28."""
    script = 'mount --bind /usr /usr && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *run.command("true")], capture_output=True, check=False
    )
    # A bind of the same file system shows in the layer below, so nothing is missing inside.
    assert done.returncode == 0, done.stderr
    # Not over the interpreter, which may lie there.
    where = next(path for path in ("/var", "/etc") if not sys.executable.startswith(f"{path}/"))
    script = f'mount -t tmpfs other {where} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *run.command("true")], capture_output=True, check=False
    )
    assert done.returncode == 125, done.stderr
    assert done.stderr.count(b"\n") == 1
    assert f"{where} lies on a file system of its own".encode() in done.stderr
    assert b"--with-mounts" in done.stderr


def test_wrong_use_is_one_line(run: Runner, tree: Path) -> None:
    """CL-05."""
    assert "no option --nonsense" in run.fails("--nonsense", "true")
    assert "no program" in run.fails()
    assert "there is no snapshot 'nobody'" in run.fails("--base", "nobody", "true")
    assert "'bogus'" in run.fails("--driver", "bogus", "true")
    assert "cannot run on this machine's own root" in Runner(run.root.parent / "copy").fails("--driver", "copy", "true")


def test_a_broken_archive_leaves_nothing(run: Runner, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "broken.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, ".")
    archive.write_bytes(archive.read_bytes()[:300_000])
    run.fails("--base", archive, "true")
    assert run.kept() == set()


def test_closed_streams(run: Runner, tree: Path) -> None:
    """Whatever is closed outside is /dev/null inside, and nothing of ours gets its number."""
    run("--base", tree, "true")
    for closing in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        script = f'exec "$@" {closing}'
        command = run.command("--base", str(tree), "--", "sh", "-c", "ls -l /proc/self/fd >/dev/null 2>&1; exit 6")
        done = subprocess.run(["sh", "-c", script, "sh", *command], check=False, timeout=60)
        assert done.returncode == 6, closing


def test_a_reader_that_has_gone_is_no_fault(run: Runner, tree: Path) -> None:
    """CL-05: closed standard output."""
    command = run.command("--base", str(tree), "--changes", "--", "sh", "-c", "echo x > /etc/a; echo x > /etc/b")
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; echo ${PIPESTATUS[0]}', "bash", *command], capture_output=True, check=False
    )
    assert done.stdout == b"0\n"
    assert done.stderr == b""


def test_timeout(run: Runner, tree: Path) -> None:
    run("--base", tree, "--timeout", "0.2", "--", "sh", "-c", "while :; do :; done", status=124)


def test_help_version_and_plan(run: Runner, tree: Path) -> None:
    assert run("--help").startswith("usage: cowstore-run ")
    assert run("--version") == f"cowstore-run {cowstore.__version__}\n"
    lines = run("--base", tree, "--print-plan", "--hostname", "inside", "--", "sh", "-c", "echo ran").splitlines()
    assert lines[0].startswith("launcher: start process 1 in new namespaces")
    assert "process 1: name machine (hostname=inside)" in lines
    assert "ran" not in lines
