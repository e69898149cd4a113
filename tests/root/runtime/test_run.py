"""``cowstore.run``: what it gives back, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cowstore
from cowstore.errors import CowstoreError, InvalidArgument, NotFound, WrongKind


def sh(store: cowstore.Store, script: str, **more: object) -> str:
    """Run a script on a throw-away child of this machine's root, and return what it wrote."""
    done = cowstore.run(store, argv=["sh", "-c", script], capture=True, **{"parent": "host", **more})  # type: ignore[arg-type]
    assert done.status == 0, (done, script)
    assert done.out is not None
    return done.out.decode()


@pytest.mark.parametrize(
    ("argv", "status", "signal"),
    [
        (["sh", "-c", "exit 3"], 3, None),
        (["sh", "-c", "exit 125"], 125, None),
        (["sh", "-c", "kill -9 $$"], 137, 9),
        (["sh", "-c", "kill -TERM $$"], 143, 15),
        (["no-such-program"], 127, None),
        (["/no/such/program"], 127, None),
        (["/etc/passwd"], 126, None),
        (["/etc"], 126, None),
    ],
)
def test_statuses(store: cowstore.Store, argv: list[str], status: int, signal: int | None) -> None:
    """RT-04: none of them is guessed from a text."""
    done = cowstore.run(store, parent="host", argv=argv, capture=True)
    assert (done.status, done.signal) == (status, signal)
    assert (done.failure is not None) == (argv[0] != "sh")


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_programs_that_cannot_be_executed(store: cowstore.Store, as_pid_1: bool) -> None:
    """RT-04: a wrong interpreter, no interpreter, and a name that is hidden in PATH by a file that may not run."""
    store.prepare("work", "host")
    with store.mounted("work") as root:
        for name, content, mode in (("bad", "#!/no/such/sh\n", 0o755), ("none", "true\n", 0o755), ("off", "x", 0o644)):
            path = root / "srv" / name
            path.write_text(content)
            path.chmod(mode)
    for name, says in (("bad", "interpreter"), ("none", "#! line"), ("off", "executable bit")):
        done = cowstore.run(store, key="work", argv=[f"/srv/{name}"], as_pid_1=as_pid_1)
        assert done.status == 126
        assert done.failure is not None
        assert says in done.failure
    # As in every shell, a file that may not be executed does not hide a later one of the same name.
    done = cowstore.run(store, key="work", argv=["off"], env={"PATH": "/srv:/bin"}, as_pid_1=as_pid_1)
    assert done.status == 126
    with store.mounted("work") as root:
        (root / "srv/off").rename(root / "srv/true")
    assert cowstore.run(store, key="work", argv=["true"], env={"PATH": "/srv:/bin"}, as_pid_1=as_pid_1).status == 0


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_output_and_input(store: cowstore.Store, as_pid_1: bool) -> None:
    content = os.urandom(300_000)
    done = cowstore.run(
        store,
        parent="host",
        argv=["sh", "-c", "cat; echo err >&2; exit 4"],
        capture=True,
        stdin=content,
        as_pid_1=as_pid_1,
    )
    assert (done.status, done.out, done.err) == (4, content, b"err\n")


def test_a_throw_away_child_is_thrown_away(store: cowstore.Store) -> None:
    before = os.stat("/etc/hostname").st_mtime_ns
    assert sh(store, "rm -rf /etc/hostname; echo x > /new; ls /etc/hostname 2>&1 || true").startswith("ls: ")
    assert [snapshot.key for snapshot in store.walk()] == ["host"]
    assert os.stat("/etc/hostname").st_mtime_ns == before
    assert not os.path.exists("/new")


def test_what_a_program_changes_stays_in_its_snapshot(store: cowstore.Store) -> None:
    store.prepare("work", "host")
    cowstore.run(store, key="work", argv=["sh", "-c", "echo one > /srv/mark"])
    done = cowstore.run(store, key="work", argv=["cat", "/srv/mark"], capture=True)
    assert (done.out, done.key) == (b"one\n", "work")
    assert not os.path.exists("/srv/mark")


def test_true_changes_nothing(store: cowstore.Store) -> None:
    store.prepare("work", "host")
    cowstore.run(store, key="work", argv=["true"])
    assert list(store.changes("work")) == []


def test_read_only(store: cowstore.Store) -> None:
    script = "touch /srv/x 2>/dev/null || echo refused; grep ' / ' /proc/mounts"
    for where in ({"parent": "host"}, {"key": "view"}, {"key": "work"}):
        if "key" in where and where["key"] == "view":
            store.view("view", "host")
        elif "key" in where:
            store.prepare("work", "host")
        out = sh(store, script, **({"parent": None} | where), read_only=True)
        assert out.startswith("refused\n")
        assert " ro," in out
    store.prepare("changed", "host")
    cowstore.run(store, key="changed", argv=["true"], read_only=True)
    assert list(store.changes("changed")) == []


def test_wrong_calls(store: cowstore.Store) -> None:
    store.prepare("work", "host")
    with pytest.raises(InvalidArgument, match="either key"):
        cowstore.run(store, argv=["true"])
    with pytest.raises(InvalidArgument, match="either key"):
        cowstore.run(store, key="work", parent="host", argv=["true"])
    with pytest.raises(NotFound):
        cowstore.run(store, key="nobody", argv=["true"])
    with pytest.raises(NotFound):
        cowstore.run(store, parent="nobody", argv=["true"])
    with pytest.raises(WrongKind):
        cowstore.run(store, parent="work", argv=["true"])
    with pytest.raises(WrongKind):
        cowstore.run(store, parent="work", argv=["true"], read_only=True)
    assert sorted(snapshot.key for snapshot in store.walk()) == ["host", "work"]


def test_a_container_that_cannot_be_made_says_which_step_failed(store: cowstore.Store) -> None:
    with pytest.raises(CowstoreError, match="enter directory: /no/such/directory: No such file or directory"):
        cowstore.run(store, parent="host", argv=["true"], cwd="/no/such/directory")
    assert [snapshot.key for snapshot in store.walk()] == ["host"]


def test_from_threads(store: cowstore.Store) -> None:
    """RT-14: threads come and go, and none of the runs fails or hangs."""
    import concurrent.futures

    def end_soon() -> None:
        time.sleep(0.001)

    def one(number: int) -> bytes | None:
        threading.Thread(target=end_soon).start()
        return cowstore.run(store, parent="host", argv=["echo", str(number)], capture=True).out

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(40))) == [f"{number}\n".encode() for number in range(40)]


def test_a_timeout_ends_the_program(store: cowstore.Store) -> None:
    done = cowstore.run(store, parent="host", argv=["sleep", "100"], timeout_s=1)
    assert (done.status, done.timed_out) == (143, True)
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(InvalidArgument, match="no time limit"):
            cowstore.run(store, parent="host", argv=["true"], timeout_s=wrong)
    started = time.monotonic()
    done = cowstore.run(store, parent="host", argv=["sleep", "100"], timeout_s=0.2)
    assert (done.status, done.timed_out) == (143, True)
    assert time.monotonic() - started < 2


def test_a_timeout_ends_a_program_that_ignores_sigterm(store: cowstore.Store) -> None:
    script = "trap '' TERM; while :; do sleep 1; done"
    started = time.monotonic()
    done = cowstore.run(store, parent="host", argv=["sh", "-c", script], timeout_s=0.2)
    assert (done.status, done.timed_out) == (137, True)
    assert time.monotonic() - started < 4


def test_the_container_ends_with_the_process_that_asked_for_it(store: cowstore.Store, tmp_path: Path) -> None:
    """RT-24: asked for by a thread, which may end; the process may not."""
    script = f"""
import threading, time, cowstore
store = cowstore.open({store.root!r})
tree = "sleep 1234 & sh -c 'sleep 1234 & wait' & echo up; wait"
def go(): cowstore.run(store, parent="host", argv=["sh", "-c", tree])
threading.Thread(target=go).start()
time.sleep(1000)
"""
    caller = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE)
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"up\n"
    deadline = time.monotonic() + 5
    inside: list[int] = []
    while len(inside) < 2 and time.monotonic() < deadline:
        inside = [pid for pid in _pids_of("sleep\x001234") if _has_ancestor(pid, caller.pid)]
    assert len(inside) == 2
    caller.kill()
    caller.wait()
    caller.stdout.close()
    deadline = time.monotonic() + 1
    while set(_pids_of("sleep\x001234")) & set(inside) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(_pids_of("sleep\x001234")) & set(inside)
    left: list[str] = ["host", "run"]
    found: tuple[object, ...] = ()
    while len(left) > 1 and time.monotonic() < deadline:
        with cowstore.open(store.root) as again:
            left = [snapshot.key for snapshot in again.walk()]
            found = again.check()
    assert (left, found) == (["host"], ())


def _pids_of(command: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_text().rstrip("\0") == command:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _has_ancestor(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_a_terminal_that_is_captured(store: cowstore.Store) -> None:
    done = cowstore.run(store, parent="host", argv=["sh", "-c", "tty; cat"], tty=True, capture=True, stdin=b"in\n")
    assert done.status == 0
    assert done.out is not None
    assert sorted(done.out.split()) == [b"/dev/pts/0", b"in", b"in"]
    assert done.err == b""
