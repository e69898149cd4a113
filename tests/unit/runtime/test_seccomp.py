"""Filters of system calls: the compiler, the default, and profiles from files."""

from __future__ import annotations

import json
import operator
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowstore._linux import seccomp as kernel
from cowstore._linux.capabilities import Cap
from cowstore.errors import InvalidArgument
from cowstore.runtime import seccomp
from cowstore.runtime._filters import DEFAULT
from cowstore.runtime.bpf import Condition, Rule, compile_filter, evaluate
from cowstore.runtime.spec import DEFAULT_CAPS
from cowstore.runtime.syscalls import ARCHITECTURES, numbers

if TYPE_CHECKING:
    from pathlib import Path

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
EPERM, ENOSYS = kernel.RET_ERRNO | 1, kernel.RET_ERRNO | 38
ACTIONS = st.sampled_from([kernel.RET_ALLOW, EPERM, kernel.RET_LOG, kernel.RET_TRAP])
U64 = st.integers(0, 2**64 - 1) | st.integers(0, 3) | st.integers(2**32 - 2, 2**32 + 2)
CONDITIONS = st.builds(
    Condition,
    index=st.integers(0, 5),
    operation=st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "&"]),
    value=U64,
    masked=U64,
    low=st.booleans(),
)
RULES = st.dictionaries(
    st.integers(0, 500),
    st.lists(st.builds(Rule, action=ACTIONS, conditions=st.lists(CONDITIONS, max_size=2).map(tuple)), max_size=3).map(
        tuple
    ),
    max_size=60,
)


def holds(condition: Condition, arguments: list[int]) -> bool:
    width = 0xFFFFFFFF if condition.low else 2**64 - 1
    argument, value = arguments[condition.index] & width, condition.value & width
    if condition.operation == "&":
        return argument & value == condition.masked & width
    functions = {
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
    return bool(functions[condition.operation](argument, value))


@settings(max_examples=300, deadline=None)
@given(RULES, st.lists(st.tuples(st.integers(0, 600), st.lists(U64, min_size=6, max_size=6)), max_size=20), ACTIONS)
def test_a_program_decides_as_its_rules_do(
    rules: dict[int, tuple[Rule, ...]], calls: list[tuple[int, list[int]]], default: int
) -> None:
    program = compile_filter([(X86_64, True, rules)], default=default, foreign=kernel.RET_KILL_PROCESS)
    for number, arguments in [*calls, *((number, [0] * 6) for number in rules)]:
        wanted = default
        for rule in rules.get(number, ()):
            if all(holds(condition, arguments) for condition in rule.conditions):
                wanted = rule.action
                break
        assert evaluate(program, X86_64, number, arguments) == wanted
        assert evaluate(program, AARCH64, number, arguments) == kernel.RET_KILL_PROCESS


def test_a_program_that_is_too_long_is_refused() -> None:
    conditions = (Condition(index=0, operation="==", value=1),)
    rules = {number: (Rule(action=EPERM, conditions=conditions),) for number in range(1000)}
    with pytest.raises(ValueError, match="4096"):
        compile_filter([(X86_64, False, rules)], default=EPERM, foreign=EPERM)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_compiled_default_is_the_default(machine: str) -> None:
    """If not: run scripts/seccomp_default.py."""
    assert DEFAULT[machine] == seccomp.default(on=machine).hex()


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_default(machine: str) -> None:
    program = bytes.fromhex(DEFAULT[machine])
    for name, architecture in ARCHITECTURES[machine]:
        table = numbers(name)

        def ask(call: str, *arguments: int) -> int:
            return evaluate(program, architecture, table[call], arguments)  # noqa: B023  # used in this turn only

        for call in ("read", "openat", "execve", "exit_group", "chroot", "ptrace", "landlock_create_ruleset", "mseal"):
            assert ask(call) == kernel.RET_ALLOW, call
        for call in (
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "add_key",
            "init_module",
            "reboot",
            "io_uring_setup",
        ):
            assert ask(call) == EPERM, call
        for call in ("open_by_handle_at", "perf_event_open", "userfaultfd", "kexec_load", "pivot_root", "move_mount"):
            assert ask(call) == EPERM, call
        assert ask("clone3") == ENOSYS
        assert ask("clone", 0x1200011) == kernel.RET_ALLOW
        for flag in (0x20000, 0x10000000, 0x40000000, 0x2000000):
            assert ask("clone", 0x11 | flag) == EPERM
        assert ask("ioctl", 0, 0x5401) == kernel.RET_ALLOW
        # The kernel takes an int: what stands above it must not make a difference.
        assert ask("ioctl", 0, 0x5412) == ask("ioctl", 0, 0x5412 | 1 << 32) == EPERM
        assert ask("personality", 0xFFFFFFFF) == kernel.RET_ALLOW
        assert ask("personality", 0x40000) == EPERM
        assert ask("socket", 2) == kernel.RET_ALLOW
        assert ask("socket", 40) == EPERM
        assert evaluate(program, architecture, 5000) == ENOSYS
    assert evaluate(program, 0x12345678, 0) == ENOSYS


def test_a_capability_brings_its_calls() -> None:
    table = numbers("x86_64")
    program = seccomp.default(DEFAULT_CAPS | 1 << Cap.SYS_ADMIN, on="x86_64")
    for call in ("mount", "unshare", "clone3", "bpf"):
        assert evaluate(program, X86_64, table[call], [0x10000000]) == kernel.RET_ALLOW
    assert evaluate(program, X86_64, table["reboot"]) == EPERM
    program = seccomp.default(DEFAULT_CAPS & ~(1 << Cap.SYS_CHROOT), on="x86_64")
    assert evaluate(program, X86_64, table["chroot"]) == EPERM


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="no headers to compare with")
def test_numbers_are_those_of_the_headers() -> None:
    from pathlib import Path

    for name, header in (("x86_64", "unistd_64.h"), ("i386", "unistd_32.h")):
        path = Path("/usr/include/x86_64-linux-gnu/asm") / header
        if not path.exists():
            pytest.skip("not proven: the kernel's headers are not installed")
        words = [line.split() for line in path.read_text().splitlines() if line.startswith("#define __NR_")]
        listed = {parts[1].removeprefix("__NR_"): int(parts[2]) for parts in words}
        table = numbers(name)
        assert {call: table.get(call) for call in listed} == listed


def test_names_are_known() -> None:
    """A name that is misspelt would refuse nothing."""
    known = numbers("x86_64").keys() | numbers("i386").keys()
    for names in (seccomp.NEVER, *seccomp.BY_CAPABILITY.values()):
        assert set(names.split()) <= known


PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
        {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS", "includes": {"arches": ["arm64"]}},
    ],
}


def test_profiles(tmp_path: Path) -> None:
    program = seccomp.from_profile(PROFILE, DEFAULT_CAPS, on="x86_64")
    table = numbers("x86_64")
    assert evaluate(program, X86_64, table["mkdir"]) == kernel.RET_ERRNO | 13
    assert evaluate(program, X86_64, table["kill"], [1, 9]) == EPERM
    assert evaluate(program, X86_64, table["kill"], [1, 15]) == kernel.RET_ALLOW
    assert evaluate(program, X86_64, table["mount"]) == EPERM
    assert evaluate(program, X86_64, table["reboot"]) == kernel.RET_ALLOW
    program = seccomp.from_profile(PROFILE, DEFAULT_CAPS | 1 << Cap.SYS_ADMIN, on="x86_64")
    assert evaluate(program, X86_64, table["mount"]) == kernel.RET_ALLOW
    program = seccomp.from_profile(PROFILE, DEFAULT_CAPS, on="aarch64")
    assert evaluate(program, AARCH64, numbers("aarch64")["reboot"]) == kernel.RET_KILL_PROCESS
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILE))
    assert seccomp.from_file(str(path)) == seccomp.from_profile(PROFILE, DEFAULT_CAPS)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"defaultAction": "SCMP_ACT_NONSENSE"}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": 3}',
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"]}]}',
        '{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{}]}]}',
        '{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{"names": [], "includes": {"caps": ["CAP_NONSENSE"]}}]}',
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(InvalidArgument, match="profile"):
        seccomp.from_file(str(path))
    with pytest.raises(InvalidArgument, match="cannot read"):
        seccomp.from_file(str(tmp_path / "absent"))
