"""From a spec to the steps that carry it out: a pure function, whose result can be printed instead of done."""

from __future__ import annotations

from cowstore._linux.namespaces import CloneFlag
from cowstore.runtime import devices, masks, privileges, program, root, system, users
from cowstore.runtime.operations import Stage, operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.operations import Operation
    from cowstore.runtime.spec import Spec


CAP_KILL = 5

INHERITED = frozenset(
    {
        program.enter_directory,
        program.reset_signals,
        privileges.bound_capabilities,
        privileges.limit_capabilities,
        users.become_user,
    }
)
"""Steps of process 1 that a program has from it, and one that enters its container later must do itself."""


def namespaces(spec: Spec) -> CloneFlag:
    """Tell which namespaces process 1 is born in."""
    flags = CloneFlag.NEWNS | CloneFlag.NEWPID | CloneFlag.NEWUTS | CloneFlag.NEWIPC
    if spec.limits is None and not spec.runtime:
        # With limits it comes later, when process 1 is in the group that shall be the topmost it sees.
        flags |= CloneFlag.NEWCGROUP
    return flags if spec.network == "host" else flags | CloneFlag.NEWNET


def plan(spec: Spec) -> tuple[Operation, ...]:
    """Return the steps that carry out *spec*, in order. Nothing is done."""
    if spec.runtime:
        return _left_to(spec)
    return (*_limits(spec), *_network(spec), *_root(spec), *_system(spec), *_program(spec))


def _left_to(spec: Spec) -> tuple[Operation, ...]:
    """Return the steps with which another runtime carries out *spec*."""
    from cowstore.runtime import cgroups, oci

    made = [] if spec.limits is None else [operation(Stage.LAUNCHER, cgroups.make_groups, limits=spec.limits)]
    return (
        *made,
        operation(Stage.LAUNCHER, oci.make_group),
        *_network(spec),
        operation(Stage.INIT, cgroups.join_groups, spared=False),
        operation(Stage.INIT, root.separate_mounts),
        operation(Stage.INIT, oci.mount_bundle, at=spec.bundle, mounts=spec.mounts, read_only=spec.read_only),
        *([operation(Stage.INIT, root.hand_over_root)] if spec.holds_root else ()),
        *_resolver(spec),
        operation(Stage.INIT, oci.mount_for_runtime),
        *([operation(Stage.INIT, system.raise_loopback)] if spec.network != "host" else ()),
        operation(Stage.INIT, oci.write_configuration, spec=spec),
        operation(Stage.INIT, program.reset_signals),
        operation(Stage.PROGRAM, program.own_session),
        operation(Stage.PROGRAM, program.unblock_signals),
        operation(Stage.PROGRAM, oci.execute_runtime, runtime=spec.runtime),
    )


def _network(spec: Spec) -> list[Operation]:
    """Return what happens before the root covers this machine's /proc."""
    if spec.network != "user":
        return []
    from cowstore.runtime import network

    return [operation(Stage.LAUNCHER, network.find_helper), operation(Stage.INIT, network.join_network)]


def _resolver(spec: Spec) -> list[Operation]:
    if spec.network != "user":
        return []
    from cowstore.runtime import network

    return [operation(Stage.INIT, network.show_resolver)]


def _limits(spec: Spec) -> list[Operation]:
    if spec.limits is None:
        return []
    from cowstore.runtime import cgroups

    return [
        operation(Stage.LAUNCHER, cgroups.make_groups, limits=spec.limits),
        operation(Stage.INIT, cgroups.join_groups, spared=spec.limits.memory_bytes is not None and not spec.as_pid_1),
    ]


def _root(spec: Spec) -> list[Operation]:
    steps = [operation(Stage.INIT, root.separate_mounts)]
    if spec.binds:
        steps.append(operation(Stage.INIT, root.open_binds, binds=spec.binds))
    steps += [
        operation(Stage.INIT, root.realise_root, mounts=spec.mounts, read_only=spec.read_only),
        *([operation(Stage.INIT, root.hand_over_root)] if spec.holds_root else ()),
        operation(Stage.INIT, root.mount_proc),
        operation(Stage.INIT, root.mount_sys),
        operation(Stage.INIT, devices.mount_dev),
    ]
    if spec.tty:
        steps.append(operation(Stage.INIT, devices.open_terminal))
    if spec.tmpfs:
        steps.append(operation(Stage.INIT, root.mount_tmpfs, places=spec.tmpfs))
    if spec.binds:
        steps.append(operation(Stage.INIT, root.bind, binds=spec.binds))
    steps += _resolver(spec)
    if spec.masks:
        steps.append(operation(Stage.INIT, masks.mask, paths=masks.MASKED))
        steps.append(operation(Stage.INIT, masks.protect, paths=masks.READ_ONLY))
    if spec.hidden:
        steps.append(operation(Stage.INIT, root.hide, paths=spec.hidden))
    steps.append(operation(Stage.INIT, root.pivot))
    return steps


def _system(spec: Spec) -> list[Operation]:
    steps = []
    if spec.hostname is not None:
        steps.append(operation(Stage.INIT, system.name_machine, hostname=spec.hostname))
    if spec.network != "host":
        steps.append(operation(Stage.INIT, system.raise_loopback))
    steps += [
        operation(Stage.INIT, program.enter_directory, path=spec.cwd, may_lack=spec.cwd_may_lack),
        operation(Stage.INIT, privileges.bound_capabilities, keep=spec.capabilities),
        operation(Stage.INIT, program.reset_signals),
    ]
    if _is_inherited(spec):
        steps += _less_privileges(spec, Stage.INIT)
    if not spec.as_pid_1:
        steps.append(operation(Stage.INIT, system.conceal_process_1))
    return steps


def _is_inherited(spec: Spec) -> bool:
    """Tell whether the program can inherit its user and privileges from process 1, which needs to signal all inside.

    A page written after a fork is copied, so what is done before costs less; and process 1 has no more rights than it
    needs.
    """
    return spec.user == "0:0" and not spec.tty and not spec.new_privileges and bool(spec.capabilities >> CAP_KILL & 1)


def _less_privileges(spec: Spec, stage: Stage) -> list[Operation]:
    return [
        operation(stage, users.become_user, user=spec.user),
        operation(stage, privileges.limit_capabilities, keep=spec.capabilities),
    ]


def _program(spec: Spec) -> list[Operation]:
    steps = [operation(Stage.PROGRAM, program.own_session)]
    if spec.tty:
        steps.append(operation(Stage.PROGRAM, devices.take_terminal))
    if spec.limits is not None:
        from cowstore.runtime import cgroups

        steps.append(operation(Stage.PROGRAM, cgroups.spare_no_longer))
    filtering = [operation(Stage.PROGRAM, privileges.filter_calls, program=spec.seccomp)] if spec.seccomp else []
    if spec.new_privileges:
        # Whoever may gain privileges needs one to be filtered.
        steps += filtering
    if not _is_inherited(spec):
        steps += _less_privileges(spec, Stage.PROGRAM)
    if not spec.new_privileges:
        steps.append(operation(Stage.PROGRAM, privileges.gain_nothing))
        steps += filtering
    return [
        *steps,
        operation(Stage.PROGRAM, program.unblock_signals),
        operation(Stage.PROGRAM, program.execute, argv=spec.argv, env=spec.env),
    ]


def describe(spec: Spec) -> list[str]:
    """Return the plan as lines, without doing anything of it."""
    flags = namespaces(spec)
    names = ", ".join(flag.name.removeprefix("NEW").lower() for flag in CloneFlag if flag & flags and flag.name)
    return [f"launcher: start process 1 in new namespaces ({names})", *(step.describe() for step in plan(spec))]
