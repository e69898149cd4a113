"""What a program sees of the machine it runs on."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.errors import CowstoreError, InvalidArgument
from cowstore.runtime.binds import Bind

if TYPE_CHECKING:
    from pathlib import Path


def sh(store: cowstore.Store, script: str, **more: object) -> str:
    done = cowstore.run(store, argv=["sh", "-c", script], capture=True, **{"parent": "host", **more})  # type: ignore[arg-type]
    assert done.status == 0, (done, script)
    assert done.out is not None
    return done.out.decode()


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_only_the_three_descriptors_are_there(store: cowstore.Store, as_pid_1: bool) -> None:
    """RT-18: whatever the caller leaves open and inheritable."""
    leaked = os.open("/", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        found = sh(store, "ls /proc/$$/fd", as_pid_1=as_pid_1).split()
    finally:
        os.close(leaked)
    assert found == ["0", "1", "2"]


def test_a_working_directory_cannot_lead_out(store: cowstore.Store) -> None:
    """RT-18: through any descriptor the launcher could have left open."""
    for number in range(3, 21):
        with pytest.raises(CowstoreError, match="enter directory"):
            cowstore.run(store, parent="host", argv=["true"], cwd=f"/proc/self/fd/{number}")
    for path in ("/proc/1/root", "/proc/1/cwd", "/proc/self/root/../.."):
        with pytest.raises(CowstoreError, match="enter directory"):
            cowstore.run(store, parent="host", argv=["true"], cwd=path)
    assert sh(store, "pwd", cwd="/../../etc") == "/etc\n"


def test_processes_and_names(store: cowstore.Store) -> None:
    assert sh(store, "echo $$; ls /proc | grep -c '^[0-9]'", cwd="/").split()[0] == "2"
    assert sh(store, "echo $$", as_pid_1=True) == "1\n"
    assert sh(store, "cat /proc/sys/kernel/hostname", hostname="inside") == "inside\n"
    assert sh(store, "cat /proc/sys/kernel/hostname").strip() == os.uname().nodename
    assert os.uname().nodename != "inside"


def test_every_namespace_is_new(store: cowstore.Store) -> None:
    script = "for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; done"
    inside = sh(store, script).split()
    outside = [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid", "uts", "ipc", "net", "cgroup")]
    assert not set(inside) & set(outside)
    shared = sh(store, script, network="host").split()
    assert set(shared) & set(outside) == {outside[4]}


def test_network_none_has_a_loopback_that_is_up_and_nothing_else(store: cowstore.Store) -> None:
    assert sh(store, "ls /sys/class/net") == "lo\n"
    script = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "c = socket.create_connection(s.getsockname()); print('reached')"
    )
    done = cowstore.run(store, parent="host", argv=["python3", "-c", script], capture=True)
    assert done.out == b"reached\n", done


def test_network_host_is_this_machines(store: cowstore.Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]})); print('reached')"
        done = cowstore.run(store, parent="host", argv=["python3", "-c", script], network="host", capture=True)
        assert done.out == b"reached\n", done


def test_devices(store: cowstore.Store) -> None:
    """RT-07: the standard devices, and terminals of its own, for anybody."""
    found = sh(store, "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a %u:%g' $d; done")
    assert found.splitlines() == [
        "null 1:3 666 0:0",
        "zero 1:5 666 0:0",
        "full 1:7 666 0:0",
        "random 1:8 666 0:0",
        "urandom 1:9 666 0:0",
        "tty 5:0 666 0:0",
    ]
    assert sh(store, "readlink /dev/ptmx /dev/fd /dev/stdin /dev/stdout /dev/stderr").split() == [
        "pts/ptmx",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
    ]
    assert sh(store, "ls /dev/pts") == "ptmx\n"
    assert sh(store, "stat -c %a /dev/pts/ptmx /dev/shm /dev").split() == ["666", "1777", "755"]
    assert sh(store, "echo x > /dev/stdout") == "x\n"
    script = (
        "import os, pty; os.setgroups([]); os.setgid(1000); os.setuid(1000); "
        "a, b = pty.openpty(); print(os.ttyname(b)); os.write(b, b'x'); print(os.read(a, 1))"
    )
    done = cowstore.run(store, parent="host", argv=["python3", "-c", script], capture=True)
    assert done.out == b"/dev/pts/0\nb'x'\n", done


def test_sys_and_proc(store: cowstore.Store) -> None:
    mounts = {line.split()[1]: line.split() for line in sh(store, "cat /proc/mounts").splitlines()}
    assert set(mounts) >= {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm"}
    assert "ro" in mounts["/sys"][3].split(",")
    for path in ("/proc", "/sys", "/dev/shm", "/dev/pts"):
        assert {"nosuid", "noexec"} <= set(mounts[path][3].split(","))


def test_mounts_of_this_machine_do_not_show(store: cowstore.Store, tmp_path: Path) -> None:
    """RT-23, RT-28: neither those there are, nor those made later; and none of the container's shows here."""
    outside = tmp_path / "mounted"
    outside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "cowstore-test", outside], check=True)
    try:
        (outside / "file").touch()
        assert sh(store, f"ls {outside}; cat /proc/mounts").count("cowstore-test") == 0
        bound = sh(store, f"ls {outside}", binds=(Bind(source=str(outside), target=str(outside)),))
        assert bound == "file\n"
    finally:
        subprocess.run(["umount", outside], check=True)


def test_nothing_is_mounted_outside(store: cowstore.Store) -> None:
    """RT-23: twenty runs, half of which fail on purpose; with what is mounted here shared, as systemd has it."""
    script = f"""
import subprocess, cowstore
subprocess.run(["mount", "--make-rshared", "/"], check=True)
def mounts(): return set(open("/proc/self/mountinfo"))
with cowstore.open({store.root!r}) as store:
    before = mounts()
    for number in range(20):
        cwd = "/" if number % 2 else "/no/such/directory"
        try: cowstore.run(store, parent="host", argv=["true"], cwd=cwd)
        except cowstore.CowstoreError: pass
    print(len(mounts() - before))
"""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_the_store_does_not_show(store: cowstore.Store) -> None:
    assert os.listdir(store.root)
    assert sh(store, f"ls -A {store.root}; stat -c %a {store.root}") == "0\n"
    assert sh(store, f"touch {store.root}/x 2>/dev/null || echo refused") == "refused\n"


def test_signals_are_as_a_program_expects_them(store: cowstore.Store) -> None:
    """Whatever the caller ignores or blocks."""
    import signal

    from cowstore._linux._call import bind_syscall

    # The two that the C library keeps to itself are reached by the raw call alone: "ignore" is a handler of 1.
    action = bind_syscall("rt_sigaction", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    ignored = ctypes.create_string_buffer(b"\1", 32)
    action(32, ignored, None, 8)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        found = sh(store, "cat /proc/self/status")
    finally:
        signal.signal(signal.SIGHUP, before)
    masks = dict(line.split(":\t", 1) for line in found.splitlines() if line.startswith("Sig"))
    assert [masks[name] for name in ("SigBlk", "SigIgn", "SigCgt")] == ["0" * 16] * 3


def test_the_program_has_a_session_of_its_own_and_no_terminal(store: cowstore.Store) -> None:
    """RT-05: nothing can be typed into the caller's terminal."""
    script = "import os; assert os.getsid(0) == os.getpid(); open('/dev/tty')"
    done = cowstore.run(store, parent="host", argv=["python3", "-c", script], capture=True)
    assert done.err is not None
    assert b"No such device or address: '/dev/tty'" in done.err


def test_process_1_cannot_be_looked_into(store: cowstore.Store) -> None:
    """Its executable and its descriptors are this machine's."""
    script = (
        "for f in exe cwd root; do readlink /proc/1/$f || echo refused; done; "
        "readlink /proc/1/fd/0 || echo refused; cat /proc/1/environ 2>/dev/null || true"
    )
    assert sh(store, script).split() == ["refused"] * 4


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_a_program_that_is_the_launchers_own_interpreter_is_refused(store: cowstore.Store, as_pid_1: bool) -> None:
    """The kind of CVE-2019-5736: executed, it would give the container a handle on a file of this machine."""
    store.prepare("work", "host")
    with store.mounted("work") as root:
        (root / "srv/link").symlink_to("/proc/self/exe")
        script = root / "srv/script"
        script.write_text("#!/proc/self/exe\n")
        script.chmod(0o755)
        hidden = root / "srv/hidden"
        hidden.write_text("#! /srv/link -c\n")
        hidden.chmod(0o755)
    for argv in (["/proc/self/exe"], ["/srv/link"], ["/srv/script"], ["/srv/hidden"]):
        done = cowstore.run(store, key="work", argv=argv, as_pid_1=as_pid_1)
        assert done.status == 126, argv
        assert done.failure is not None
        assert "link of /proc" in done.failure


def test_capabilities(store: cowstore.Store) -> None:
    """Only the stated ones are left, in every set, and none can be gained."""
    status = dict(line.split(":\t", 1) for line in sh(store, "cat /proc/self/status").splitlines() if ":\t" in line)
    assert [status[f"Cap{name}"] for name in ("Prm", "Eff", "Bnd")] == ["00000000800405fb"] * 3
    assert [status[f"Cap{name}"] for name in ("Inh", "Amb")] == ["0" * 16] * 2
    assert status["NoNewPrivs"] == "1"
    assert sh(store, "mount -t tmpfs x /mnt 2>/dev/null || echo refused") == "refused\n"
    assert sh(store, "mknod /srv/disk b 8 0 2>/dev/null || echo refused") == "refused\n"


def test_device_nodes_of_the_image_open_nothing(store: cowstore.Store) -> None:
    store.prepare("work", "host")
    with store.mounted("work") as root:
        os.mknod(root / "srv/null", 0o20666, os.makedev(1, 3))
    done = cowstore.run(store, key="work", argv=["sh", "-c", "cat /srv/null"], capture=True)
    assert done.err is not None
    assert b"Permission denied" in done.err


def test_what_tells_too_much_is_covered(store: cowstore.Store) -> None:
    script = (
        "for f in /proc/keys /proc/timer_list /proc/interrupts; do cat $f | wc -c; done; ls -A /sys/firmware | wc -l; "
        "for f in /proc/sys/kernel/hostname /proc/irq; do test -w $f && echo writable $f; done; "
        "echo x 2>/dev/null > /proc/sys/kernel/domainname || echo refused"
    )
    assert sh(store, script).split() == ["0", "0", "0", "0", "refused"]


def test_system_calls_are_filtered(store: cowstore.Store) -> None:
    assert "Seccomp:\t2\n" in sh(store, "cat /proc/self/status")
    assert sh(store, "unshare --user true 2>/dev/null || echo refused") == "refused\n"
    assert "Seccomp:\t0\n" in sh(store, "cat /proc/self/status", seccomp="none")
    script = "import threading; t = threading.Thread(target=print, args=('ran',)); t.start()"
    assert cowstore.run(store, parent="host", argv=["python3", "-c", script], capture=True).out == b"ran\n"
    assert sh(store, "mount -t tmpfs x /mnt && echo mounted", cap_add=["sys_admin"]) == "mounted\n"
    assert "CapEff:\t0000000000000000" in sh(store, "cat /proc/self/status", cap_drop=["ALL"])
    # Of ten cases, one: the terminal's own ioctl, with what stands above the kernel's int.
    script = "import fcntl, os; a, b = os.openpty(); fcntl.ioctl(b, 0x5412, b'x')"
    done = cowstore.run(store, parent="host", argv=["python3", "-c", script], capture=True)
    assert done.err is not None
    assert b"Operation not permitted" in done.err


def test_binds_and_tmpfs(store: cowstore.Store, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "in").write_text("in\n")
    script = "cat /data/in; echo out > /data/out; echo x > /scratch/x; stat -f -c %S.%b /scratch; stat -c %a /scratch"
    out = sh(store, script, binds=[f"{shared}:/data"], tmpfs=["/scratch:1M"])
    assert out.split() == ["in", "4096.256", "1777"]
    assert (shared / "out").read_text() == "out\n"
    script = "echo x > /data/no 2>/dev/null || echo refused"
    assert sh(store, script, binds=[f"{shared}:/data:ro"]) == "refused\n"
    for wrong in ("x", "x:y", ":/x", "/x:/y:z"):
        with pytest.raises(InvalidArgument):
            cowstore.run(store, parent="host", argv=["true"], binds=[wrong])
    for wrong in ("x", "/x:0", "/x:much"):
        with pytest.raises(InvalidArgument):
            cowstore.run(store, parent="host", argv=["true"], tmpfs=[wrong])
