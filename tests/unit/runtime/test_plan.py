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
from cowstore.runtime.plan import describe, may_start_ahead, plan, program_ahead, program_of
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
    order = ["make stage", "make proc", "enter stage", "mount root", "mount proc", "pivot", "await root", "execute"]
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
    steps = [step.name for step in plan(spec()) if step.stage is Stage.PROGRAM]
    assert steps[-2:] == ["unblock signals", "execute"]


def test_a_program_may_be_started_before_it_is_known_when_its_rights_are_the_usual_ones() -> None:
    usual = spec(seccomp=ready_filter(), cwd="/srv", hostname="x", binds=(Bind(source="/var", target="/var"),))
    assert may_start_ahead(usual)
    assert [*program_ahead(), *program_of(usual, ahead=True)] == program_of(usual)
    for other in ({"user": "1"}, {"capabilities": 0}, {"as_pid_1": True}, {"tty": True}, {"limits": Limits(pids=9)}):
        assert not may_start_ahead(spec(seccomp=ready_filter(), **other))
    assert not may_start_ahead(spec(new_privileges=True, seccomp=ready_filter()))
    assert not may_start_ahead(spec(seccomp=b"12345678"))


def test_who_needs_the_root_for_his_rights_waits_for_it() -> None:
    for other in ({"user": "app"}, {"capabilities": 0}):
        steps = [step.name for step in program_of(spec(seccomp=ready_filter(), **other))]
        assert steps.index("await root") < steps.index("enter directory") < steps.index("bound capabilities")


def test_it_can_be_read() -> None:
    lines = describe(spec(hostname="inside", cwd="/srv"))
    assert lines[0] == "launcher: start process 1 in new namespaces (ns, cgroup, uts, ipc, pid, net)"
    assert "process 1: name machine (hostname=inside)" in lines
    assert any(line.startswith("program: enter directory (path=/srv") for line in lines)
    assert not any("\n" in line for line in lines)
