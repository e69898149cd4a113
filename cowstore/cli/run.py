"""``cowstore-run``: one process on a copy of a root, in one command that is its own launcher."""

from __future__ import annotations

import os
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from typing import NoReturn

    from cowstore._leased import Lease
    from cowstore.cli._run_options import Options
    from cowstore.runtime.binds import Bind
    from cowstore.runtime.launcher import Outcome
    from cowstore.runtime.limits import Limits
    from cowstore.runtime.newborn import Newborn
    from cowstore.runtime.spec import Spec
    from cowstore.store import Store

FAILED, TIMED_OUT, INTERRUPTED = 125, 124, 130

_ends_with_the_run = False
"""Whether this process is the command itself, which ends by _exit(2) as soon as the run is over."""


class _Later(ModuleType):
    """Stands for a module until the first look at it."""

    def __getattr__(self, name: str) -> object:
        import importlib

        del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _hasten() -> None:
    """Save what this short-lived process has no use for."""
    import gc

    gc.disable()
    # dataclasses wants inspect only for classes without a docstring; its import is a fifth of all of ours.
    if "inspect" not in sys.modules and "dataclasses" not in sys.modules:
        sys.modules["inspect"] = _Later("inspect")


def main() -> NoReturn:
    """Be the command: run, and end this process at once, without taking the interpreter down piece by piece."""
    global _ends_with_the_run
    _open_standard_streams()
    _hasten()
    _ends_with_the_run = True
    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            status = status or FAILED
    os._exit(status)


def run(argv: Sequence[str]) -> int:
    """Run one program.

    :param argv: the command line without the name of the command.
    :returns: the exit status.
    """
    from cowstore.cli._run_options import HELP, UsageError, parse

    try:
        options = parse(argv)
        if options.help or options.version:
            from cowstore._version import __version__

            _print(HELP if options.help else f"cowstore-run {__version__}\n")
            return 0
        status = _run(options)
    except UsageError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("COWSTORE_DEBUG"):
            raise
        return _failure(error)
    return status


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed: nothing of ours may get one of their numbers."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(fd, True)


def _run(options: Options) -> int:
    from contextlib import ExitStack

    if os.geteuid() != 0:
        from cowstore.cli.unshare import enter

        enter(options.store)
    with ExitStack() as stack:
        newborn = _newborn(options, stack)
        # Only now: while this loads, process 1 is at work.
        from cowstore._opening import open as open_store

        store = stack.enter_context(open_store(options.store, driver=options.driver, options=options.option or None))
        if _ends_with_the_run:
            store._core.catalog.leave_log()  # noqa: SLF001  # only for who ends right after: no verb
        key = _snapshot(store, options, stack)
        with store.leased(key) as lease:
            spec = _spec(store, options, lease)
            if options.print_plan:
                from cowstore.runtime.plan import describe

                _print("".join(f"{line}\n" for line in describe(spec)))
                return 0
            outcome = _launch(spec, lease, options, newborn)
        for text in outcome.warnings:
            _complain(text)
        if outcome.out_of_memory:
            _complain(f"out of memory: the kernel ended a process of it at the limit of {options.memory} bytes")
        if outcome.failure is not None:
            return _complain(outcome.failure, outcome.exit_status)
        _afterwards(store, key, options)
        return TIMED_OUT if outcome.timed_out else outcome.exit_status


def _newborn(options: Options, stack: ExitStack) -> Newborn | None:
    """Let process 1 be born, so that it is ready when the snapshot is; it ends with *stack* at the latest."""
    if options.print_plan or options.runtime or _limits(options) is not None:
        return None
    from cowstore.runtime.newborn import Newborn
    from cowstore.runtime.outside import born_in

    newborn = Newborn(born_in(network=options.network), networked=options.network == "user")
    stack.callback(newborn.end)
    return newborn


def _snapshot(store: Store, options: Options, stack: ExitStack) -> str:
    """Return the key of the snapshot to run on."""
    from cowstore.cli import _base
    from cowstore.errors import Unsupported

    if options.commit is not None:
        _refuse_used(store, options.commit, "--commit")
    if options.base is None:
        _base.refuse_separate(with_mounts=options.with_mounts)
        if _is_view(options) and (options.keep is not None or options.commit is not None):
            raise Unsupported(
                "an ordinary user's copy of this machine's root ends with the run: leave out --keep and --commit, "
                "or give a --base that can be a layer (a tar or a directory)",
                feature="adopts",
            )
    if options.read_only:
        return _base.resolve(store, options.base)
    key = options.keep or f"run-{os.urandom(8).hex()}"
    _base.prepare(store, key, options.base, ephemeral=options.keep is None)
    if options.keep is None:
        stack.callback(_remove, store, key)
    return key


def _refuse_used(store: Store, name: str, option: str) -> None:
    from cowstore.errors import AlreadyExists, NotFound

    try:
        found = store.stat(name)
    except NotFound:
        return
    raise AlreadyExists(
        f"{option} {name}: there is a {found.kind} snapshot of that name already; choose another, or remove it",
        key=name,
    )


def _remove(store: Store, key: str) -> None:
    from cowstore.errors import NotFound

    try:
        store.remove(key)
    except NotFound:  # committed
        return


def _spec(store: Store, options: Options, lease: Lease) -> Spec:
    from cowstore.runtime import compose
    from cowstore.runtime.image import NOTHING, config_of
    from cowstore.runtime.spec import Spec

    mounts = lease.mounts
    viewed: tuple[Bind, ...] = ()
    if _is_view(options):
        from cowstore.cli import _machine

        viewed = _machine.views(mounts)
    image = NOTHING if options.base is None else config_of(store, lease.key)
    cwd, may_lack = compose.directory(options.workdir or image.cwd or None), False
    if options.base is None and options.workdir is None:
        # On a copy of this machine one is where one was, if that is there.
        cwd, may_lack = _here(), True
    caps = compose.capabilities(options.cap_add, options.cap_drop)
    runtime, filtering = "", b""
    if options.runtime:
        runtime, filtering = _other_runtime(options, caps)
    else:
        filtering = compose.seccomp(options.seccomp, caps)
    return Spec(
        mounts=mounts,
        argv=compose.command(options.argv or image.argv),
        env=compose.environment(options.env, image.env),
        user=compose.user(options.user, image.user),
        stop_signal=image.stop_signal,
        cwd=cwd,
        cwd_may_lack=may_lack,
        hostname=compose.hostname(options.hostname),
        network=compose.network(options.network),
        read_only=lease.read_only,
        hidden=(os.path.realpath(store.root),) if viewed else compose.hidden(mounts, store.root),
        binds=(*viewed, *_binds(options), *map(compose.bind, options.bind)),
        tmpfs=compose.tmpfs(options.tmpfs),
        as_pid_1=options.as_pid_1,
        tty=options.tty,
        limits=_limits(options),
        capabilities=caps,
        seccomp=filtering,
        runtime=runtime,
        bundle=os.path.join(store.root, "mnt") if runtime else "",
        holds_root=lease.has_to_unmount,
    )


def _other_runtime(options: Options, caps: int) -> tuple[str, bytes]:
    """Find the OCI runtime that is to make the container; returns its path, and the filter in its words."""
    from cowstore.errors import Unsupported
    from cowstore.runtime import config, oci

    if _is_view(options):
        raise Unsupported(
            f"{options.runtime} cannot show an ordinary user this machine's root: give a --base", feature="runtime"
        )
    return oci.find(options.runtime), config.filter_of(options.seccomp, caps)


def _is_view(options: Options) -> bool:
    """Tell whether the run is on this machine's root as an ordinary user can have it."""
    if options.base is not None:
        return False
    from cowstore.cli import _machine

    return _machine.is_locked()


def _limits(options: Options) -> Limits | None:
    if options.memory is None and options.cpus is None and options.pids is None:
        return None
    from cowstore.runtime.limits import Limits

    best_effort = options.limits == "best-effort"
    return Limits(memory_bytes=options.memory, cpus=options.cpus, pids=options.pids, best_effort=best_effort).check()


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _binds(options: Options) -> tuple[Bind, ...]:
    from cowstore.runtime.compose import resolver

    if not options.with_mounts:
        return resolver(options.network)
    from cowstore.cli import _base

    return (*_base.other_mounts(), *resolver(options.network))


def _launch(spec: Spec, lease: Lease, options: Options, newborn: Newborn | None) -> Outcome:
    from cowstore.runtime.launcher import Container

    # A forked child gives up all leases at once; a copy of this one stays with process 1, as long as it is mounted.
    held = os.dup(lease.fd)
    try:
        container = Container(spec, keep=(held,), newborn=newborn)
    finally:
        os.close(held)
    before_unmount = lease.before_unmount if spec.holds_root else None
    return container.supervise(timeout_s=options.timeout, before_unmount=before_unmount)


def _afterwards(store: Store, key: str, options: Options) -> None:
    """Show and keep what is to be shown and kept."""
    if options.changes:
        _print_changes(store, key, options)
    if options.commit is not None:
        store.commit(options.commit, key)


def _print_changes(store: Store, key: str, options: Options) -> None:
    from cowstore.cli._output import change_line, one_line

    found = store.changes(key)
    if _is_view(options):
        from cowstore.cli import _machine

        with store.leased(key) as lease:
            upper = _machine.upper_of(lease.mounts)
        found = iter(()) if upper is None else _machine.changes(upper)
    for change in found:
        _print(one_line(change_line(change)) + "\n")


def _print(text: str) -> None:
    """Write to standard output, every byte of a name as it is; a reader that is gone is no error."""
    content = os.fsencode(text)
    try:
        while content:
            content = content[os.write(1, content) :]
    except BrokenPipeError:
        return


def _complain(text: str, status: int = FAILED) -> int:
    """Write one line to standard error, if there is one."""
    from cowstore.cli._output import one_line

    try:
        print(f"cowstore-run: {one_line(text)}", file=sys.stderr)
    except OSError:
        pass
    return status


def _failure(error: Exception) -> int:
    from cowstore.cli._output import describe

    return _complain(describe(error))


if __name__ == "__main__":
    main()
