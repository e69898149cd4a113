"""A network of the user's, through pasta or slirp4netns, to a server on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from tests.root.cli.test_run import Runner
from tests.tiers import need_program

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s:
    s.sendall(b"from inside")
    s.shutdown(1)
    print(s.recv(11).decode(), s.getsockname()[0])
"""
"""Debian 12's pasta has been seen to send the same bytes nine times beside a busy machine: only the first are read."""


def own_address() -> str:
    """Return an address of this machine that is not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("not proven: this machine has no way out that a helper could use")
        address: str = probe.getsockname()[0]
        return address


@contextmanager
def echo(address: str) -> Iterator[int]:
    """A server that answers once; gives its port."""

    def answer(server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection, suppress(ConnectionError):
            while part := connection.recv(100):
                connection.sendall(part)

    with socket.create_server((address, 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def helpers(above: int) -> list[int]:
    """List the helpers that run below a process."""
    found = []
    children = subprocess.run(["pgrep", "-P", str(above)], capture_output=True, text=True, check=False).stdout.split()
    for pid in map(int, children):
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            continue
        found += [pid] if name.startswith(("passt", "pasta", "slirp4netns")) else helpers(pid)
    return found


@pytest.fixture(params=["pasta", "slirp4netns"])
def only(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """A machine that has one of the two: a command line that others begin with."""
    need_program(request.param)
    empty = tmp_path / "empty"
    empty.touch()
    other = {"pasta": "slirp4netns", "slirp4netns": "pasta"}[request.param]
    script = f'for d in /usr/local/bin /usr/bin; do test -e $d/{other} && mount --bind "$0" $d/{other}; done; exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(empty)]


@pytest.mark.parametrize("more", [[], ["--as-pid-1"], ["--user", "65534"]])
def test_a_way_out(only: list[str], tmp_path: Path, more: list[str]) -> None:
    run = Runner(tmp_path / "store")
    address = own_address()
    with echo(address) as port:
        inside = ["python3", "-c", CLIENT, address, str(port)]
        command = [*only, *run.command("--network", "user", *more, "--", *inside)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("from inside 10.0.2.100\n", "")


def test_what_is_there_and_what_is_not(only: list[str], tmp_path: Path) -> None:
    run = Runner(tmp_path / "store")
    script = (
        "ls /sys/class/net; cat /etc/resolv.conf; touch /etc/resolv.conf 2>/dev/null || echo refused; "
        "grep -c '^eth0.00000000' /proc/net/route; "
        "python3 -c 'import socket; socket.create_connection((\"10.0.2.2\", 1), 2)' 2>/dev/null || echo unreachable"
    )
    with echo("127.0.0.1") as port:
        inside = script.replace(", 1)", f", {port})")
        command = [*only, *run.command("--network", "user", "--changes", "--", "sh", "-c", inside)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        socket.create_connection(("127.0.0.1", port)).close()
    assert done.stdout.split() == ["eth0", "lo", "nameserver", "10.0.2.3", "refused", "1", "unreachable"], done


def test_from_a_program(store: cowstore.Store) -> None:
    need_program("pasta")
    address = own_address()
    with (
        echo(address) as port,
        cowstore.spawn(store, parent="host", argv=["sleep", "100"], network="user") as running,
    ):
        assert running.pid
        [helper] = helpers(os.getpid())
        done = running.exec(["python3", "-c", CLIENT, address, str(port)], capture=True)
        assert done.out == b"from inside 10.0.2.100\n"
    assert not os.path.exists(f"/proc/{helper}")


def test_it_ends_with_a_launcher_that_is_killed(only: list[str], tmp_path: Path) -> None:
    """RT-24."""
    run = Runner(tmp_path / "store")
    command = [*only, *run.command("--network", "user", "--", "sh", "-c", "echo up; sleep 100")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    found = helpers(running.pid)
    assert found
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stdout.close()
    deadline = time.monotonic() + 1
    while any(os.path.exists(f"/proc/{pid}") for pid in found):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_where_neither_is_installed(tmp_path: Path) -> None:
    run = Runner(tmp_path / "store")
    empty = tmp_path / "empty"
    empty.touch()
    script = (
        "for f in /usr/local/bin/pasta /usr/bin/pasta /usr/local/bin/slirp4netns /usr/bin/slirp4netns; do "
        'test -e $f && mount --bind "$0" $f; done; exec "$@"'
    )
    command = ["unshare", "--mount", "sh", "-c", script, str(empty), *run.command("--network", "user", "--", "true")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 125
    assert done.stderr == (
        "cowstore-run: a network of the user's needs pasta or slirp4netns, and neither is installed: on Debian they "
        "are in the packages passt and slirp4netns\n"
    )


def test_a_helper_that_fails_is_quoted(tmp_path: Path) -> None:
    """Without the device that both need."""
    need_program("slirp4netns", "pasta")
    run = Runner(tmp_path / "store")
    null = str(tmp_path / "nothing")
    Path(null).touch()
    command = [*run.command("--network", "user", "--", "true")]
    script = 'mount --bind "$0" /dev/net/tun && exec "$@"'
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("not proven: this machine has no /dev/net/tun")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, null, *command],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 125
    assert done.stderr.startswith("cowstore-run: pasta, which is to connect the network, has ended: "), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_names_resolve_with_the_machines_network(store: cowstore.Store) -> None:
    """Whatever the root's own file says."""
    store.prepare("work", "host")
    with store.mounted("work") as root:
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        (root / "etc/resolv.conf").write_text("# the image's\n")
    for network, says in (("none", "# the image's\n"), ("host", Path("/etc/resolv.conf").read_text())):
        done = cowstore.run(store, key="work", argv=["cat", "/etc/resolv.conf"], network=network, capture=True)
        assert done.out == says.encode()
