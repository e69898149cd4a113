"""``cowstore.run`` and ``cowstore.spawn``: a program on a snapshot, from any thread of any program.

No Python runs in this process between fork and exec: the launcher is a process of its own (see
:mod:`cowstore.runtime.remote`). It ends with the process that it works for, and the container with it.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager

from cowstore.errors import InvalidArgument, WrongKind
from cowstore.model import Kind
from cowstore.runtime.remote import Remote, server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import IO

    from cowstore.runtime.binds import Bind
    from cowstore.runtime.handle import Handle
    from cowstore.runtime.limits import Limits
    from cowstore.runtime.result import Result
    from cowstore.store import Store

__all__ = ["run", "spawn"]


def run(
    store: Store,
    *,
    key: str | None = None,
    parent: str | None = None,
    argv: Iterable[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    hostname: str | None = None,
    network: str = "none",
    read_only: bool = False,
    binds: Iterable[Bind | str] = (),
    tmpfs: Iterable[str] = (),
    as_pid_1: bool = False,
    tty: bool = False,
    cap_add: Iterable[str] = (),
    cap_drop: Iterable[str] = (),
    seccomp: str = "default",
    limits: Limits | None = None,
    timeout_s: float | None = None,
    capture: bool = False,
    stdin: bytes | int | IO[bytes] | None = None,
) -> Result:
    """Run a program on a snapshot, wait for its end, and tell what became of it.

    :param key: the snapshot to run on; what the program changes stays in it. An active or a read-only one.
    :param parent: instead of *key*: the committed snapshot on a fresh, throw-away child of which to run.
    :param argv: the program, looked up in PATH inside the root unless it holds a slash, and its arguments; by default
        what the image says.
    :param env: variables beside (or instead of) PATH, HOME, TERM and the image's; nothing else of this process's is
        taken over.
    :param cwd: directory inside the root to start in; by default the image's, or ``/``.
    :param user: ``NAME`` or ``NUMBER`` of the root's own users, perhaps with ``:GROUP``; by default the image's, or
        root.
    :param hostname: name of the machine as the program sees it; this machine's by default.
    :param network: ``"none"`` for a loopback interface and nothing else, ``"host"`` for this machine's network
        and its ``/etc/resolv.conf``, ``"user"`` for a way out through pasta or slirp4netns.
    :param read_only: nothing can be written to the root.
    :param binds: directories and files of this machine to show inside: :class:`~cowstore.runtime.binds.Bind` values,
        or ``"SOURCE:TARGET[:ro]"``.
    :param tmpfs: places of empty file systems in memory: ``"PATH[:SIZE]"``.
    :param as_pid_1: the program is process 1 itself; by default a reaper of ours is.
    :param tty: it has a terminal of its own, connected with this process's standard streams, or with *stdin* and what
        is captured; ``Handle.kill(signal.SIGWINCH)`` gives it the present size of this one.
    :param cap_add: capabilities a program of root keeps beside the default ones. :param cap_drop: those it does not.
    :param seccomp: filter of system calls: ``"default"``, ``"none"``, or the path of a profile.
    :param limits: bounds for all its processes together (:class:`~cowstore.runtime.limits.Limits`).
    :param timeout_s: seconds after which it is ended: SIGTERM, two seconds later SIGKILL.
    :param capture: collect standard output and error instead of passing them on.
    :param stdin: bytes to feed it, or a file or descriptor it shall read from; by default this process's own.
    :returns: also for a program that is missing (127) or cannot be executed (126).
    :raises NotFound: no such snapshot. :raises WrongKind: *parent* is not committed. :raises InvalidArgument: the call
        is wrong. :raises CowstoreError: the container could not be made.
    """
    started = spawn(
        store,
        key=key,
        parent=parent,
        argv=argv,
        env=env,
        cwd=cwd,
        user=user,
        hostname=hostname,
        network=network,
        read_only=read_only,
        binds=binds,
        tmpfs=tmpfs,
        as_pid_1=as_pid_1,
        tty=tty,
        cap_add=cap_add,
        cap_drop=cap_drop,
        seccomp=seccomp,
        limits=limits,
        timeout_s=timeout_s,
        capture=capture,
        stdin=stdin,
    )
    with started:
        return started.wait()


def spawn(
    store: Store,
    *,
    key: str | None = None,
    parent: str | None = None,
    argv: Iterable[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    hostname: str | None = None,
    network: str = "none",
    read_only: bool = False,
    binds: Iterable[Bind | str] = (),
    tmpfs: Iterable[str] = (),
    as_pid_1: bool = False,
    tty: bool = False,
    cap_add: Iterable[str] = (),
    cap_drop: Iterable[str] = (),
    seccomp: str = "default",
    limits: Limits | None = None,
    timeout_s: float | None = None,
    capture: bool = False,
    stdin: bytes | int | IO[bytes] | None = None,
) -> Handle:
    """Start a program on a snapshot; the arguments are those of :func:`run`.

    :returns: the running container, a context manager at whose end it ends. It ends with this process in any case.
    """
    server.start()
    # Everything else is imported while the server starts.
    from cowstore.runtime import compose
    from cowstore.runtime.handle import Handle
    from cowstore.runtime.image import config_of
    from cowstore.runtime.spec import Spec
    from cowstore.runtime.streams import Streams

    caps = compose.capabilities(cap_add, cap_drop)
    compose.time_limit(timeout_s)
    with ExitStack() as stack:
        where = stack.enter_context(_snapshot(store, key, parent, read_only=read_only))
        image = config_of(store, where)
        lease = stack.enter_context(store.leased(where))
        spec = Spec(
            mounts=lease.mounts,
            argv=compose.command(image.argv if argv is None else argv),
            env=compose.environment(env, image.env),
            cwd=compose.directory(cwd or image.cwd or None),
            user=compose.user(user, image.user),
            stop_signal=image.stop_signal,
            hostname=compose.hostname(hostname),
            network=compose.network(network),
            read_only=read_only or lease.read_only,
            hidden=compose.hidden(lease.mounts, store.root),
            binds=compose.binds(network, binds),
            tmpfs=compose.tmpfs(tmpfs),
            as_pid_1=as_pid_1,
            tty=tty,
            limits=limits.check() if limits is not None and limits.any else None,
            capabilities=caps,
            seccomp=compose.seccomp(seccomp, caps),
            holds_root=lease.has_to_unmount,
        )
        streams = stack.enter_context(Streams(stdin, capture=capture, tty=tty))
        remote = Remote(
            spec,
            streams.inside,
            keep=(lease.fd,),
            timeout_s=timeout_s,
            before_unmount=lease.before_unmount if lease.has_to_unmount else None,
        )
        stack.callback(remote.end)
        streams.attach(remote)
        return Handle(where, spec, remote, streams, stack.pop_all())


@contextmanager
def _snapshot(store: Store, key: str | None, parent: str | None, *, read_only: bool) -> Iterator[str]:
    """Give the key of the snapshot to run on, one made for that alone if a parent is given."""
    if (key is None) == (parent is None):
        raise InvalidArgument(
            "give either key, a snapshot to run on, or parent, one to make a throw-away child of", argument="key"
        )
    if key is not None:
        yield key
        return
    assert parent is not None, "one of the two is there"
    if read_only:
        # Nothing can change, so there is nothing to make.
        if store.stat(parent).kind != Kind.COMMITTED:
            raise WrongKind(f"{parent!r} is not committed; commit it, or run on it with key=", key=parent)
        yield parent
        return
    made = f"run-{os.urandom(8).hex()}"
    store.prepare(made, parent, ephemeral=True)
    try:
        yield made
    finally:
        store.remove(made)
