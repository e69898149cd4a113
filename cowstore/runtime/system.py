"""Steps about the machine as seen inside: its name, its network, and process 1 itself."""

from __future__ import annotations

import os

from cowstore._linux import prctl
from cowstore._linux.namespaces import sethostname
from cowstore._linux.network import interface_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.inside import Inside


def name_machine(inside: Inside, *, hostname: str | None) -> None:
    """Set the host name inside; None is what it is outside, which may have changed since process 1 was born."""
    wanted = hostname or inside.hostname
    if wanted != os.uname().nodename:
        sethostname(os.fsencode(wanted))


def raise_loopback(inside: Inside) -> None:  # noqa: ARG001  # every step has the same signature
    """Bring the loopback interface of the new network namespace up."""
    interface_up("lo")


def conceal_process_1(inside: Inside) -> None:  # noqa: ARG001
    """Keep programs inside from tracing process 1 and from opening its files: its executable is this machine's."""
    prctl.set_dumpable(False)
