"""From a spec to the steps that carry it out: a pure function, whose result can be printed instead of done."""

from __future__ import annotations

from cowstore._linux.namespaces import CloneFlag
from cowstore.runtime import devices, masks, privileges, program, root, system, users
from cowstore.runtime.compose import ready_filter
from cowstore.runtime.operations import Stage, operation
from cowstore.runtime.outside import namespaces, outside
from cowstore.runtime.spec import DEFAULT_CAPS, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.operations import Operation


CAP_DAC_OVERRIDE, CAP_KILL = 1, 5


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


def program_ahead() -> list[Operation]:
    """Return the steps of a program's process that it takes before it is known what it will be: the usual ones."""
    return [*_own(Spec(mounts=(), argv=())), *_rights(DEFAULT_CAPS, "0:0", ready_filter(), gains=False)]


def may_start_ahead(spec: Spec) -> bool:
    """Tell whether :func:`program_ahead` is how *spec* begins."""
    return not spec.as_pid_1 and not spec.runtime and program_of(spec)[: len(ahead := program_ahead())] == ahead


def program_of(spec: Spec, *, ahead: bool = False) -> list[Operation]:
    """Return the steps of the program's process.

    :param ahead: those of :func:`program_ahead` are behind it.
    """
    if spec.runtime:
        from cowstore.runtime import oci

        return [
            operation(Stage.PROGRAM, program.own_session),
            operation(Stage.PROGRAM, program.unblock_signals),
            operation(Stage.PROGRAM, oci.execute_runtime, runtime=spec.runtime),
        ]
    there = [
        operation(Stage.PROGRAM, program.await_root),
        operation(Stage.PROGRAM, program.enter_directory, path=spec.cwd, may_lack=spec.cwd_may_lack),
    ]
    rights = [] if ahead else _rights(spec.capabilities, spec.user, spec.seccomp, gains=spec.new_privileges)
    # The root's files say who a user is, and privileges may be needed to enter a directory; else nothing waits for it.
    steps = [*rights, *there] if ahead or _knows_its_rights(spec) else [*there, *rights]
    return [
        *([] if ahead else _own(spec)),
        *steps,
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


def _knows_its_rights(spec: Spec) -> bool:
    """Tell whether the root changes nothing about the rights, and the rights nothing about what is left to do there."""
    may_enter = bool(spec.capabilities >> CAP_DAC_OVERRIDE & 1)
    return spec.user == "0:0" and may_enter and (not spec.seccomp or spec.seccomp == ready_filter())


def _rights(capabilities: int, user: str, seccomp: bytes, *, gains: bool) -> list[Operation]:
    steps = [operation(Stage.PROGRAM, privileges.bound_capabilities, keep=capabilities)]
    filtering = [operation(Stage.PROGRAM, privileges.filter_calls, program=seccomp)] if seccomp else []
    if gains:
        # Whoever may gain privileges needs one to be filtered.
        steps += filtering
    steps += [
        operation(Stage.PROGRAM, users.become_user, user=user),
        operation(Stage.PROGRAM, privileges.limit_capabilities, keep=capabilities),
    ]
    if not gains:
        steps.append(operation(Stage.PROGRAM, privileges.gain_nothing))
        steps += filtering
    return steps


def describe(spec: Spec) -> list[str]:
    """Return the plan as lines, without doing anything of it."""
    flags = namespaces(spec)
    names = ", ".join(flag.name.removeprefix("NEW").lower() for flag in CloneFlag if flag & flags and flag.name)
    return [f"launcher: start process 1 in new namespaces ({names})", *(step.describe() for step in plan(spec))]
