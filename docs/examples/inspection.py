"""Says what stands between this process and the machine it runs on; run it inside and outside, and compare."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import textwrap

CAPABILITIES = [
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
]  # fmt: skip
"""In the order of their numbers. Source: include/uapi/linux/capability.h."""

CALLS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone3": (435, 435),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (170, 170),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""Calls that have led out of containers, or administer the machine: numbers on x86_64, and on aarch64 and riscv64."""

DEVICES = ("/dev/kmsg", "/dev/mem", "/dev/kvm", "/dev/fuse", "/dev/loop-control", "/dev/net/tun", "/dev/sda")
SECRETS = ("/proc/kcore", "/proc/keys", "/proc/sched_debug", "/proc/timer_list", "/sys/firmware")
"""What tells of the machine, or of its other users."""


def status() -> dict[str, str]:
    with open("/proc/self/status", encoding="utf-8") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def refused() -> str:
    """Return the calls that fail whatever they are given: not permitted, or unknown to this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    for name, (x86_64, others) in CALLS.items():
        number = x86_64 if os.uname().machine == "x86_64" else others
        # Nonsense for every one of them: what is let through fails by another error.
        libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
        if ctypes.get_errno() in {errno.EPERM, errno.ENOSYS}:
            found.append(name)
    return " ".join(found)


def capabilities(mask: str) -> str:
    return " ".join(name for number, name in enumerate(CAPABILITIES) if int(mask, 16) >> number & 1) or "none"


def is_writable(path: str) -> bool:
    return os.path.exists(path) and os.access(path, os.W_OK)


def tells(path: str) -> bool:
    """Tell whether there is anything to be learnt from a file or directory."""
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        with open(path, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


def main() -> None:
    own = status()
    with open("/proc/self/uid_map", encoding="ascii") as file:
        first = file.read().split()
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = {fields[4]: fields[5].split(",") for fields in map(str.split, file)}
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        groups = {line.rstrip().split(":", 2)[2] for line in file}
    lines = {
        "processes seen": str(len([name for name in os.listdir("/proc") if name.isdigit()])),
        "user": f"{os.getuid()} of {'the machine' if first == ['0', '0', '4294967295'] else 'a user namespace'}",
        "capabilities": capabilities(own["CapEff"]),
        "could be gained": capabilities(f"{int(own['CapBnd'], 16) & ~int(own['CapEff'], 16):x}")
        if own["NoNewPrivs"] == "0"
        else "none (no new privileges)",
        "system calls": {"0": "not filtered", "1": "strict", "2": "filtered"}[own["Seccomp"]],
        "refused, of some": refused() or "none",
        "interfaces": " ".join(name for _, name in socket.if_nameindex()),
        "control group": " ".join(sorted(groups)),
        "devices, of some": " ".join(path for path in DEVICES if os.path.exists(path)) or "none",
        "root": ",".join(option for option in mounts["/"] if option in {"rw", "ro", "nodev"}),
        "/proc/sys": "writable" if is_writable("/proc/sys/kernel/hostname") else "read-only",
        "/sys": ",".join(option for option in mounts["/sys"] if option in {"rw", "ro"}),
        "told of secrets": " ".join(filter(tells, SECRETS)) or "nothing",
        "descriptors": " ".join(sorted(os.listdir("/proc/self/fd"), key=int)[:-1]),
        "variables": " ".join(sorted(set(os.environ) - {"LC_CTYPE", "TERM"})),
    }
    for name, value in lines.items():
        print(textwrap.fill(value, 100, initial_indent=f"{name + ':':18}", subsequent_indent=" " * 18))


if __name__ == "__main__":
    main()
