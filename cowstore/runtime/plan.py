"""From a spec to the steps that carry it out: a pure function, whose result can be printed instead of done."""

from __future__ import annotations

from cowstore._linux.namespaces import CloneFlag
from cowstore.runtime import devices, masks, privileges, program, root, system, users
from cowstore.runtime.compose import ready_filter
from cowstore.runtime.operations import Stage, operation
from cowstore.runtime.outside import namespaces, outside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.operations import Operation
    from cowstore.runtime.spec import Spec


CAP_KILL = 5


def plan(spec: Spec) -> tuple[Operation, ...]:
    """Return the steps that carry out *spec*, in order. Nothing is done."""
    early = ahead(namespaces(spec), staged=not spec.runtime)
    return (*outside(spec), *early, *inside(spec), *program_of(spec), *watch())


def ahead(flags: CloneFlag, *, staged: bool = True) -> list[Operation]:
    """Return the steps of process 1 that are the same whatever is to be run in these namespaces.

    :param staged: it leaves this machine's tree. Another runtime looks for its own files there.
    """
    if not staged:
        return [operation(Stage.AHEAD, root.separate_mounts)]
    steps = [
        operation(Stage.AHEAD, root.separate_mounts),
        operation(Stage.AHEAD, root.make_stage),
        operation(Stage.AHEAD, root.make_proc),
        operation(Stage.AHEAD, root.make_sys),
        operation(Stage.AHEAD, devices.make_dev),
        operation(Stage.AHEAD, masks.mask, paths=masks.MASKED),
        operation(Stage.AHEAD, masks.protect, paths=masks.READ_ONLY),
        operation(Stage.AHEAD, root.enter_stage),
    ]
    if flags & CloneFlag.NEWNET:
        steps.append(operation(Stage.AHEAD, system.raise_loopback))
    steps.append(operation(Stage.AHEAD, program.reset_signals))
    return steps


def inside(spec: Spec) -> list[Operation]:
    """Return the other steps of process 1, at whose end the program may go on."""
    if spec.runtime:
        return _left_to(spec)
    steps = []
    if spec.limits is not None:
        from cowstore.runtime import cgroups

        spared = spec.limits.memory_bytes is not None and not spec.as_pid_1
        steps.append(operation(Stage.INIT, cgroups.join_groups, spared=spared))
    if spec.network == "user":
        from cowstore.runtime import network

        steps.append(operation(Stage.INIT, network.join_network))
    steps += [
        operation(Stage.INIT, root.mount_root),
        operation(Stage.INIT, root.mount_proc),
        operation(Stage.INIT, root.mount_sys),
        operation(Stage.INIT, root.mount_dev),
    ]
    if spec.tty:
        steps.append(operation(Stage.INIT, devices.open_terminal))
    if spec.tmpfs:
        steps.append(operation(Stage.INIT, root.mount_tmpfs, places=spec.tmpfs))
    if spec.binds:
        steps.append(operation(Stage.INIT, root.bind, binds=spec.binds))
    steps += _resolver(spec)
    if spec.hidden:
        steps.append(operation(Stage.INIT, root.hide, paths=spec.hidden))
    steps.append(operation(Stage.INIT, root.pivot))
    steps.append(operation(Stage.INIT, system.name_machine, hostname=spec.hostname))
    if not spec.as_pid_1:
        steps.append(operation(Stage.INIT, system.conceal_process_1))
    return steps


def _left_to(spec: Spec) -> list[Operation]:
    """Return the steps of process 1 with which another runtime carries out *spec*."""
    from cowstore.runtime import cgroups, network, oci

    return [
        *([operation(Stage.INIT, network.join_network)] if spec.network == "user" else ()),
        operation(Stage.INIT, cgroups.join_groups, spared=False),
        operation(Stage.INIT, oci.mount_bundle, at=spec.bundle),
        *_resolver(spec),
        operation(Stage.INIT, oci.mount_for_runtime),
        *([operation(Stage.INIT, system.raise_loopback)] if spec.network != "host" else ()),
        operation(Stage.INIT, oci.write_configuration, spec=spec),
        operation(Stage.INIT, program.reset_signals),
    ]


def _resolver(spec: Spec) -> list[Operation]:
    if spec.network != "user":
        return []
    from cowstore.runtime import network

    return [operation(Stage.INIT, network.show_resolver)]


def watch() -> list[Operation]:
    """Return what process 1 does when the program goes on: it keeps the one right that it needs."""
    return [operation(Stage.WATCH, privileges.limit_capabilities, keep=1 << CAP_KILL)]


def may_be_started(spec: Spec) -> bool:
    """Tell whether process 1 can start the program without a copy of itself, with rights that it shares with it.

    It needs one of them itself, to end what the program leaves, and the system calls that the default filter allows.
    """
    return (
        not (spec.as_pid_1 or spec.runtime or spec.tty or spec.new_privileges)
        and spec.limits is None
        and spec.user == "0:0"
        and bool(spec.capabilities >> CAP_KILL & 1)
        and spec.seccomp in {b"", ready_filter()}
    )


def program_of(spec: Spec) -> list[Operation]:
    """Return the steps that make the program: of process 1, where it can be started, or of its own process."""
    if may_be_started(spec):
        return [
            operation(Stage.INIT, program.enter_directory, path=spec.cwd, may_lack=spec.cwd_may_lack),
            *_rights(spec, Stage.INIT),
            operation(Stage.INIT, program.start, argv=spec.argv, env=spec.env),
        ]
    return become(spec)


def become(spec: Spec) -> list[Operation]:
    """Return the steps of a process that becomes the program."""
    if spec.runtime:
        from cowstore.runtime import oci

        return [
            operation(Stage.PROGRAM, program.own_session),
            operation(Stage.PROGRAM, program.unblock_signals),
            operation(Stage.PROGRAM, oci.execute_runtime, runtime=spec.runtime),
        ]
    return [
        *_own(spec),
        # The root's files say who a user is, and privileges may be needed to enter a directory.
        operation(Stage.PROGRAM, program.enter_directory, path=spec.cwd, may_lack=spec.cwd_may_lack),
        *_rights(spec, Stage.PROGRAM),
        operation(Stage.PROGRAM, program.unblock_signals),
        operation(Stage.PROGRAM, program.execute, argv=spec.argv, env=spec.env),
    ]


def _own(spec: Spec) -> list[Operation]:
    steps = [operation(Stage.PROGRAM, program.own_session)]
    if spec.tty:
        steps.append(operation(Stage.PROGRAM, devices.take_terminal))
    if spec.limits is not None:
        from cowstore.runtime import cgroups

        steps.append(operation(Stage.PROGRAM, cgroups.spare_no_longer))
    return steps


def _rights(spec: Spec, stage: Stage) -> list[Operation]:
    steps = [operation(stage, privileges.bound_capabilities, keep=spec.capabilities)]
    filtering = [operation(stage, privileges.filter_calls, program=spec.seccomp)] if spec.seccomp else []
    if spec.new_privileges:
        # Whoever may gain privileges needs one to be filtered.
        steps += filtering
    steps += [
        operation(stage, users.become_user, user=spec.user),
        operation(stage, privileges.limit_capabilities, keep=spec.capabilities),
    ]
    if not spec.new_privileges:
        steps.append(operation(stage, privileges.gain_nothing))
        steps += filtering
    return steps


def describe(spec: Spec) -> list[str]:
    """Return the plan as lines, without doing anything of it."""
    flags = namespaces(spec)
    names = ", ".join(flag.name.removeprefix("NEW").lower() for flag in CloneFlag if flag & flags and flag.name)
    return [f"launcher: start process 1 in new namespaces ({names})", *(step.describe() for step in plan(spec))]
