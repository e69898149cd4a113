"""A snapshot as an OCI runtime bundle, which any OCI runtime runs (runc, crun, youki).

Source: OCI runtime specification 1.0, bundle.md.
"""

from __future__ import annotations

import os

from cowstore.errors import InvalidArgument
from cowstore.runtime import compose
from cowstore.runtime.config import ROOT, config, filter_of
from cowstore.runtime.image import config_of
from cowstore.runtime.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cowstore._linux.fd import Descriptor
    from cowstore.runtime.binds import Bind
    from cowstore.runtime.config import Ids
    from cowstore.runtime.limits import Limits
    from cowstore.store import Store


def bundle(
    store: Store,
    key: str,
    directory: str | os.PathLike[str],
    *,
    argv: Iterable[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    hostname: str | None = None,
    network: str = "none",
    read_only: bool = False,
    binds: Iterable[Bind | str] = (),
    tmpfs: Iterable[str] = (),
    cap_add: Iterable[str] = (),
    cap_drop: Iterable[str] = (),
    seccomp: str = "default",
    limits: Limits | None = None,
    tty: bool = False,
) -> str:
    """Make *directory* a bundle of the snapshot *key*, mounted below it until ``store.detach(directory/rootfs)``.

    The process in it is as isolated as one of :func:`cowstore.run`, whose arguments these are.

    :param network: ``"none"`` or ``"host"``; for another one, give the configuration a namespace of yours.
    :returns: the path of the mounted root.
    :raises NotFound: no such snapshot. :raises InvalidArgument: the directory is not empty, or there is no program.
    """
    import json

    path = os.path.abspath(os.fspath(directory))
    if network == "user":
        raise InvalidArgument("a bundle cannot hold a network of its user's: give none or host", argument="network")
    image = config_of(store, key)
    caps = compose.capabilities(cap_add, cap_drop)
    spec = Spec(
        mounts=(),
        argv=compose.command(image.argv if argv is None else argv),
        env=compose.environment(env, image.env),
        cwd=compose.directory(cwd or image.cwd or None),
        user=compose.user(user, image.user),
        stop_signal=image.stop_signal,
        hostname=compose.hostname(hostname),
        network=compose.network(network),
        read_only=read_only or store.stat(key).kind != "active",
        binds=compose.binds(network, binds),
        tmpfs=compose.tmpfs(tmpfs),
        limits=limits.check() if limits is not None and limits.any else None,
        tty=tty,
        capabilities=caps,
        seccomp=filter_of(seccomp, caps),
    )
    os.makedirs(path, exist_ok=True)
    if os.listdir(path):
        raise InvalidArgument(f"{path} is not empty; name a new directory", argument="directory")
    root = os.path.join(path, ROOT)
    os.mkdir(root, 0o700)
    try:
        store.attach(key, root)
    except BaseException:
        os.rmdir(root)
        raise
    try:
        from cowstore._linux.fd import open_

        ids = ids_of(open_(root, os.O_PATH | os.O_DIRECTORY), spec.user)
        content = json.dumps(config(spec, ids), indent=2)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(content + "\n")
    except BaseException:
        store.detach(root)
        os.rmdir(root)
        raise
    return root


def ids_of(root: Descriptor, user: str) -> Ids:
    """Look a user up in a root, and let go of the root.

    :raises InvalidArgument: the root does not know the name.
    """
    from cowstore.runtime.inside import Inside
    from cowstore.runtime.program import ProgramError
    from cowstore.runtime.users import resolve

    inside = Inside()
    inside.take_root(root)
    try:
        return resolve(inside, user)
    except ProgramError as error:
        raise InvalidArgument(str(error), argument="user") from error
    finally:
        inside.let_go()
