"""``cowstore.spawn``: a running container in the hands of who started it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.errors import CowstoreError
from cowstore.runtime.limits import Limits

if TYPE_CHECKING:
    from pathlib import Path


def spawn(store: cowstore.Store, script: str, **more: object) -> cowstore.Handle:
    return cowstore.spawn(store, parent="host", argv=["sh", "-c", script], **more)  # type: ignore[arg-type]


def test_wait_kill_and_end(store: cowstore.Store, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    script = "trap 'exit 9' TERM; echo up; touch /shared/up; while :; do sleep 0.05; done"
    with spawn(store, script, capture=True, binds=[f"{shared}:/shared"]) as running:
        while not (shared / "up").exists():
            assert running.poll() is None
            time.sleep(0.01)
        assert running.poll() is None
        with pytest.raises(TimeoutError):
            running.wait(timeout_s=0.2)
        running.kill()
        done = running.wait()
        assert (done.status, done.out) == (9, b"up\n")
        assert running.wait() is done
        assert running.poll() is done
        running.kill()
    assert [snapshot.key for snapshot in store.walk()] == ["host"]


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_its_end_is_that_of_its_block(store: cowstore.Store, as_pid_1: bool) -> None:
    with spawn(store, "sleep 100", as_pid_1=as_pid_1) as running:
        pid = running.pid
        fd = running.pidfd()
        assert os.path.exists(f"/proc/{pid}")
    assert select.select([fd], [], [], 2)[0] == [fd]
    os.close(fd)
    with pytest.raises(CowstoreError, match="not running"):
        _ = running.pid
    with pytest.raises(CowstoreError, match="closed"):
        running.wait()
    assert [snapshot.key for snapshot in store.walk()] == ["host"]


def test_a_program_that_is_missing(store: cowstore.Store) -> None:
    with cowstore.spawn(store, parent="host", argv=["no-such-program"]) as running:
        assert running.wait().status == 127
        with pytest.raises(CowstoreError, match="not running: no-such-program: not found"):
            _ = running.pid


def test_exec_is_in_the_container(store: cowstore.Store) -> None:
    limits = Limits(pids=30)
    with spawn(store, "echo 7 > /srv/mark; sleep 100", hostname="inside", env={"A": "1"}, limits=limits) as running:
        script = "cat /srv/mark /proc/sys/kernel/hostname; echo $A $B; ls /proc/$$/fd; exit 6"
        assert running.pid
        time.sleep(0.1)
        done = running.exec(["sh", "-c", script], env={"B": "2"}, capture=True)
        assert (done.status, done.out) == (6, b"7\ninside\n1 2\n0\n1\n2\n")
        for name in ("mnt", "pid", "uts", "ipc", "net", "cgroup"):
            done = running.exec(["readlink", f"/proc/self/ns/{name}"], capture=True)
            assert done.out is not None
            assert done.out.decode().strip() == os.readlink(f"/proc/{running.pid}/ns/{name}")
        status = running.exec(["cat", "/proc/self/status"], capture=True).out or b""
        for line in (b"CapEff:\t00000000800405fb", b"NoNewPrivs:\t1", b"Seccomp:\t2"):
            assert line in status
        groups = running.exec(["cat", "/proc/self/cgroup"], capture=True).out or b""
        assert {line.rpartition(b":")[2] for line in groups.splitlines()} == {b"/"}
        assert running.exec(["id", "-u"], user="65534", capture=True).out == b"65534\n"
        assert running.exec(["no-such-program"]).status == 127
        assert running.exec(["/proc/self/exe"]).status == 126
        assert running.exec(["sleep", "100"], timeout_s=0.1).status == 143
    with pytest.raises(CowstoreError):
        running.exec(["true"])


def test_exec_ends_with_the_container(store: cowstore.Store) -> None:
    with spawn(store, "sleep 0.3") as running:
        assert running.exec(["sleep", "100"]).status == 137
        assert running.wait().status == 0


def test_freeze_and_thaw(store: cowstore.Store) -> None:
    with spawn(store, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done", capture=True) as running:
        assert running.pid
        time.sleep(0.2)
        running.freeze()
        time.sleep(0.1)
        before = running.stats()
        time.sleep(0.3)
        after = running.stats()
        assert after.cpu_seconds == before.cpu_seconds
        running.thaw()
        time.sleep(0.5)
        assert running.stats().cpu_seconds > after.cpu_seconds
        running.freeze()
        started = time.monotonic()
        running.kill(signal.SIGKILL)
        assert running.wait().status == 137
        assert time.monotonic() - started < 2


def test_stats(store: cowstore.Store) -> None:
    with spawn(store, "sleep 100 & sleep 100 & wait") as running:
        deadline = time.monotonic() + 5
        while running.stats().processes < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        found = running.stats()
        assert found.processes == 4
        assert 1 << 20 < found.memory_bytes < 1 << 30


def test_asyncio(store: cowstore.Store) -> None:
    async def go() -> tuple[int, float]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        done = await cowstore.run_async(store, parent="host", argv=["sh", "-c", "sleep 0.3; exit 3"])
        assert done.status == 3
        both = await asyncio.gather(
            *(cowstore.run_async(store, parent="host", argv=["echo", str(n)], capture=True) for n in range(3))
        )
        assert [done.out for done in both] == [b"0\n", b"1\n", b"2\n"]
        started = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(cowstore.run_async(store, parent="host", argv=["sleep", "100"]), 0.3)
        ticking.cancel()
        return ticks, time.monotonic() - started

    ticks, took = asyncio.run(go())
    assert ticks > 5
    assert took < 5
    assert [snapshot.key for snapshot in store.walk()] == ["host"]


def test_asyncio_handles(store: cowstore.Store) -> None:
    """More at once than the loop has threads, and every way to end."""

    async def go() -> None:
        started = time.monotonic()
        many = [cowstore.run_async(store, parent="host", argv=["sleep", "1"]) for _ in range(12)]
        assert [done.status for done in await asyncio.gather(*many)] == [0] * 12
        assert time.monotonic() - started < 12
        async with await cowstore.spawn_async(store, parent="host", argv=["sleep", "100"]) as running:
            assert await running.pid() == running.handle.pid
            done = await running.exec(["echo", "in"], capture=True)
            assert done.out == b"in\n"
            assert (await running.stats()).processes >= 2
            running.freeze()
            running.thaw()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(running.wait(), 0.3)
            with pytest.raises(CowstoreError, match="not running"):
                await running.pid()
        async with await cowstore.spawn_async(store, parent="host", argv=["sleep", "100"]) as running:
            running.kill()
            assert (await running.wait()).status == 143
        with pytest.raises(CowstoreError, match="no such"):
            await cowstore.spawn_async(store, parent="no such", argv=["true"])

    asyncio.run(go())
    assert [snapshot.key for snapshot in store.walk()] == ["host"]
