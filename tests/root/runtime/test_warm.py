"""The warm launcher: one fork server per process, that ends with it and minds threads, forks and kills."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cowstore
from cowstore.runtime.remote import server
from tests.root.runtime.processes import children

if TYPE_CHECKING:
    import pytest


def _echo(store: cowstore.Store, text: str) -> bytes | None:
    return cowstore.run(store, parent="host", argv=["echo", text], capture=True).out


def test_one_server_serves_all(store: cowstore.Store) -> None:
    assert _echo(store, "a") == b"a\n"
    assert server.pid is not None
    first = server.pid
    for text in ("b", "c"):
        assert _echo(store, text) == text.encode() + b"\n"
    assert server.pid == first
    deadline = time.monotonic() + 2
    while len(children(first)) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(children(first)) == 1  # one launcher waits for work


def test_a_server_that_was_killed_is_replaced(store: cowstore.Store) -> None:
    assert _echo(store, "a") == b"a\n"
    assert server.pid is not None
    os.kill(server.pid, 9)
    while Path(f"/proc/{server.pid}/status").read_text().find("State:\tZ") < 0:
        time.sleep(0.01)
    assert _echo(store, "b") == b"b\n"


def test_a_spare_launcher_that_was_killed_is_replaced(store: cowstore.Store) -> None:
    assert _echo(store, "a") == b"a\n"
    assert server.pid is not None
    for text in ("b", "c"):
        for pid in children(server.pid):
            os.kill(pid, 9)
        assert _echo(store, text) == text.encode() + b"\n"


def test_what_waits_keeps_no_mount_of_this_machine_busy(store: cowstore.Store) -> None:
    """Process 1, which is there ahead, stands on a file system of its own."""
    assert _echo(store, "a") == b"a\n"
    outer = os.stat("/").st_dev
    device = f" {os.major(outer)}:{os.minor(outer)} "
    assert device in Path("/proc/self/mountinfo").read_text()
    assert server.pid is not None
    deadline = time.monotonic() + 10
    found: list[str] = []
    while time.monotonic() < deadline and not (len(found) == 1 and "/dev/mqueue" in found[0]):
        time.sleep(0.01)
        found = [_mounts(first) for spare in children(server.pid) for first in children(spare)]
    [mounts] = found
    assert device not in mounts
    assert store.root not in mounts


def _mounts(pid: int) -> str:
    """Tell the mounts of a process that has left this machine's tree."""
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:  # it has ended
        return ""
    return mounts if len(mounts.splitlines()) > 1 and " / / " in mounts else ""


def test_process_1_keeps_one_right(store: cowstore.Store) -> None:
    """It gives the others up while the program starts."""
    look = "grep -q 'CapEff:.0000000000000020' /proc/1/status"
    script = f"for n in $(seq 500); do {look} && exit 7; sleep 0.01; done"
    assert cowstore.run(store, parent="host", argv=["sh", "-c", script]).status == 7


def test_a_forked_child_has_its_own(store: cowstore.Store) -> None:
    assert _echo(store, "a") == b"a\n"
    assert server.pid is not None
    mine = server.pid
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with cowstore.open(store.root) as own:
                out = _echo(own, "child") or b""
            assert server.pid is not None
            os.write(write, out + str(server.pid != mine).encode())
            server.stop()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        assert file.read() == b"child\nTrue"
    os.waitpid(pid, 0)
    assert _echo(store, "b") == b"b\n"
    assert server.pid == mine


def test_it_ends_with_its_owner(store: cowstore.Store) -> None:
    script = f"""
import os, time, cowstore
store = cowstore.open({store.root!r})
cowstore.run(store, parent="host", argv=["true"])
print("up", flush=True)
time.sleep(100)
"""
    owner = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"up\n"
    [process] = children(owner.pid)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 2
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{process}").exists()


def test_it_keeps_nothing_of_its_owners_open(store: cowstore.Store) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        assert _echo(store, "a") == b"a\n"
        os.close(write)
        assert os.read(read, 1) == b""
    finally:
        os.close(read)


def test_threads_share_it(store: cowstore.Store) -> None:
    """RT-14."""
    found: list[bytes | None] = []

    def go(number: int) -> None:
        found.extend(_echo(store, f"{number}.{turn}") for turn in range(5))

    threads = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(out or b"" for out in found) == [b"%d.%d\n" % (a, b) for a in range(4) for b in range(5)]


def test_ctrl_c_in_the_caller_ends_the_container(store: cowstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), 2))
    timer.start()
    started = time.monotonic()
    try:
        cowstore.run(store, parent="host", argv=["sleep", "100"])
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("not interrupted")
    finally:
        timer.join()
    assert time.monotonic() - started < 5
    assert [snapshot.key for snapshot in store.walk()] == ["host"]
