"""``cowstore bundle``: a snapshot as other people's runtimes take it."""

from __future__ import annotations

import os

from cowstore.cli._opening import open_to_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cowstore.cli._output import Output


def bundle(arguments: argparse.Namespace, out: Output) -> None:
    """Make a directory an OCI runtime bundle, and mount the snapshot in it."""
    from cowstore.runtime.bundle import bundle as make
    from cowstore.runtime.limits import Limits

    with open_to_write(arguments) as store:
        root = make(
            store,
            arguments.key,
            arguments.directory,
            argv=arguments.words or None,
            env=dict(arguments.env),
            cwd=arguments.workdir,
            user=arguments.user,
            hostname=arguments.hostname,
            network=arguments.network,
            read_only=arguments.read_only,
            binds=arguments.bind,
            tmpfs=arguments.tmpfs,
            cap_add=arguments.cap_add,
            cap_drop=arguments.cap_drop,
            seccomp=arguments.seccomp,
            limits=Limits(memory_bytes=arguments.memory, cpus=arguments.cpus, pids=arguments.pids),
            tty=arguments.tty,
        )
    directory = os.path.dirname(root)
    if out.json:
        out.document({"bundle": directory, "config": os.path.join(directory, "config.json"), "root": root})
    else:
        out.line(directory)
