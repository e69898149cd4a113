"""The plan is a pure function of the spec, and can be read."""

from __future__ import annotations

import os

from cowstore._linux.namespaces import CloneFlag
from cowstore.model import Mount
from cowstore.runtime.binds import Bind
from cowstore.runtime.compose import ready_filter
from cowstore.runtime.limits import Limits
from cowstore.runtime.operations import Stage
from cowstore.runtime.outside import namespaces
from cowstore.runtime.plan import describe, may_be_started, plan, program_of
from cowstore.runtime.spec import Spec

MOUNTS = (Mount(type="overlay", source=b"overlay", options=((b"lowerdir+", b"/lower"),)),)


def spec(**more: object) -> Spec:
    return Spec(mounts=MOUNTS, argv=("true",), **more)  # type: ignore[arg-type]


def names(made: Spec) -> list[str]:
    return [step.name for step in plan(made)]


def test_equal_specs_have_equal_plans_and_nothing_is_done() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    assert plan(spec(hostname="inside")) == plan(spec(hostname="inside"))
    assert plan(spec(hostname="inside")) != plan(spec(hostname="other"))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_root_is_cut_off_before_anything_is_mounted_and_left_before_the_program() -> None:
    """RT-23."""
    steps = plan(spec())
    inside = [step.name for step in steps if step.stage is not Stage.LAUNCHER]
    assert [step.name for step in steps if step.stage is Stage.LAUNCHER] == ["realise root"]
    assert inside[0] == "separate mounts"
    order = ["make stage", "make proc", "enter stage", "mount root", "mount proc", "pivot", "start"]
    assert [name for name in inside if name in order] == order


def test_the_store_is_hidden_after_everything_that_could_show_it() -> None:
    steps = names(spec(hidden=("/var/lib/cowstore",), binds=(Bind(source="/var", target="/var"),)))
    assert steps.index("bind") < steps.index("hide") < steps.index("pivot")
    assert steps.index("open binds") < steps.index("realise root")


def test_what_is_not_asked_for_is_no_step() -> None:
    assert not {"bind", "open binds", "hide", "mount tmpfs"} & set(names(spec()))
    assert "raise loopback" in names(spec())
    assert "raise loopback" not in names(spec(network="host"))


def test_namespaces() -> None:
    alone = namespaces(spec())
    for flag in ("NEWNS", "NEWPID", "NEWUTS", "NEWIPC", "NEWCGROUP", "NEWNET"):
        assert alone & CloneFlag[flag]
    assert not namespaces(spec(network="host")) & CloneFlag.NEWNET


def test_signals_come_through_last() -> None:
    steps = [step.name for step in plan(spec(user="app")) if step.stage is Stage.PROGRAM]
    assert steps[-2:] == ["unblock signals", "execute"]


def test_process_1_starts_a_program_whose_rights_it_can_share() -> None:
    usual = spec(seccomp=ready_filter(), cwd="/srv", hostname="x", binds=(Bind(source="/var", target="/var"),))
    assert may_be_started(usual)
    assert {step.stage for step in program_of(usual)} == {Stage.INIT}
    assert [step.name for step in program_of(usual)][-2:] == ["filter calls", "start"]
    for other in (
        {"user": "1"}, {"capabilities": 0}, {"as_pid_1": True}, {"tty": True}, {"limits": Limits(pids=9)},
        {"new_privileges": True}, {"seccomp": b"12345678"},
    ):  # fmt: skip
        made = spec(**({"seccomp": ready_filter()} | other))
        assert not may_be_started(made)
        assert {step.stage for step in program_of(made)} == {Stage.PROGRAM}


def test_the_directory_is_entered_while_there_are_all_rights() -> None:
    for other in ({}, {"user": "app"}, {"capabilities": 0}):
        steps = [step.name for step in program_of(spec(seccomp=ready_filter(), **other))]
        assert steps.index("enter directory") < steps.index("bound capabilities")


def test_it_can_be_read() -> None:
    lines = describe(spec(hostname="inside", cwd="/srv"))
    assert lines[0] == "launcher: start process 1 in new namespaces (ns, cgroup, uts, ipc, pid, net)"
    assert "process 1: name machine (hostname=inside)" in lines
    assert any(line.startswith("process 1: enter directory (path=/srv") for line in lines)
    assert not any("\n" in line for line in lines)
