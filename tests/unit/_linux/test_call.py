"""Numbers, errors and signals: how every call is made."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import subprocess
import sys
import threading

import pytest

from cowstore._linux import _call

NUMBERS = {
    "pidfd_send_signal": (424, 424, 424),
    "open_tree": (428, 428, 428),
    "move_mount": (429, 429, 429),
    "fsopen": (430, 430, 430),
    "fsconfig": (431, 431, 431),
    "fsmount": (432, 432, 432),
    "fspick": (433, 433, 433),
    "pidfd_open": (434, 434, 434),
    "clone3": (435, 435, 435),
    "openat2": (437, 437, 437),
    "pidfd_getfd": (438, 438, 438),
    "mount_setattr": (442, 442, 442),
    "quotactl_fd": (443, 443, 443),
    "renameat2": (316, 276, 276),
    "rt_sigaction": (13, 134, 134),
    "seccomp": (317, 277, 277),
}


@pytest.mark.parametrize("call", NUMBERS)
def test_numbers_are_the_kernels(call: str) -> None:
    machines = ("x86_64", "aarch64", "riscv64")
    assert tuple(_call.call_number(call, machine) for machine in machines) == NUMBERS[call]


def test_every_number_is_pinned() -> None:
    assert set(_call.NUMBERS) | {name for table in _call._OLDER.values() for name in table} == set(NUMBERS)


def test_no_number_rather_than_a_wrong_one() -> None:
    with pytest.raises(OSError, match="renameat2") as caught:
        _call.call_number("renameat2", "s390x")
    assert caught.value.errno == errno.ENOSYS
    assert _call.call_number("openat2", "s390x") == 437


def test_a_call_without_a_number_fails_as_on_an_old_kernel() -> None:
    function = _call.bind_syscall("no_such_call", ctypes.c_int)
    with pytest.raises(OSError, match="no_such_call") as caught:
        function(1)
    assert caught.value.errno == errno.ENOSYS


@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="elsewhere: the number of getpid")
def test_raw_calls_reach_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_call.NUMBERS, "getpid", 39 if platform.machine() == "x86_64" else 172)
    assert _call.bind_syscall("getpid")() == os.getpid()


def test_binding_twice_gives_two_prototypes() -> None:
    one, two = _call.bind("dup", ctypes.c_int), _call.bind("dup", ctypes.c_long)
    assert one is not two
    assert one.argtypes == (ctypes.c_int,)  # type: ignore[attr-defined]


def test_error_carries_errno_names_and_call() -> None:
    ctypes.set_errno(errno.EXDEV)
    error = _call.oserror("rename(2)", "/a", b"/b", detail="why")
    assert (error.errno, error.filename, error.filename2) == (errno.EXDEV, "/a", b"/b")
    assert error.__notes__ == ["rename(2) why"]
    assert "/a" in str(error)
    assert os.strerror(errno.EXDEV) in str(error)


def test_error_is_of_the_class_of_its_errno() -> None:
    assert type(_call.oserror("open(2)", code=errno.ENOENT)) is FileNotFoundError
    assert type(_call.oserror("open(2)", code=errno.EPERM)) is PermissionError


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), (None, None)),
        ((None, "/b"), ("/b", None)),
        (("", b""), (None, None)),
        ((_call.AT_FDCWD, "x"), ("x", None)),
        ((0,), (0, None)),
        (("x", 0), ("x", 0)),
        ((b"\xff",), (b"\xff", None)),
    ],
)
def test_error_names_only_what_was_given(names: tuple[str | bytes | int | None, ...], expected: object) -> None:
    error = _call.oserror("call(2)", *names, code=errno.EIO)
    assert (error.filename, error.filename2) == expected


def test_a_nul_is_refused_before_the_kernel_sees_half_a_path() -> None:
    for path in ("a\0b", b"a\0b"):
        with pytest.raises(OSError) as caught:
            _call.path_bytes(path, "open(2)")
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == path


def test_any_other_byte_is_kept() -> None:
    every = bytes(range(1, 256))
    assert _call.path_bytes(every, "open(2)") == every
    assert _call.path_bytes(os.fsdecode(every), "open(2)") == every


def test_an_interrupted_call_is_repeated() -> None:
    codes = [errno.EINTR, errno.EINTR, 0]

    def interrupted(value: int) -> int:
        code = codes.pop(0)
        ctypes.set_errno(code)
        return -1 if code else value

    assert _call.retry(interrupted, 5) == 5
    assert codes == []


def test_other_failures_are_not_repeated() -> None:
    calls = []

    def failing() -> int:
        calls.append(1)
        ctypes.set_errno(errno.EBUSY)
        return -1

    assert _call.retry(failing) == -1
    assert calls == [1]
    assert ctypes.get_errno() == errno.EBUSY


def test_errno_belongs_to_the_thread() -> None:
    close = _call.bind("close", ctypes.c_int)
    chdir = _call.bind("chdir", ctypes.c_char_p)
    wrong: list[int] = []

    def fail(code: int, function: object, argument: object) -> None:
        for _ in range(2000):
            assert callable(function)
            if function(argument) != -1 or _call.oserror("x(2)").errno != code:
                wrong.append(code)

    threads = [
        threading.Thread(target=fail, args=arguments)
        for arguments in (
            (errno.EBADF, close, -1),
            (errno.ENOENT, chdir, b"/no such directory"),
            (errno.ENOTDIR, chdir, b"/dev/null/x"),
        )
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_number_of() -> None:
    class Nought:
        def fileno(self) -> int:
            return 0

    assert _call.number_of(None) == _call.AT_FDCWD
    assert _call.number_of(0) == 0
    assert _call.number_of(Nought()) == 0


def test_importing_stays_light() -> None:
    """Start-up is a feature: nothing the interpreter does not need for ctypes and enum is loaded."""
    names = ("fd", "mount", "files", "namespaces", "capabilities", "prctl", "procfs", "network")
    program = (
        f"import sys; sys.path.insert(0, {os.path.dirname(os.path.dirname(os.path.dirname(_call.__file__)))!r})\n"
        "import ctypes, enum; before = set(sys.modules)\n"
        + "".join(f"import cowstore._linux.{name}\n" for name in names)
        + "print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith("cowstore")}
    assert loaded <= {"__future__", "errno", "fcntl", "struct", "_struct", "functools", "operator"}
