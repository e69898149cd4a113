"""Steps that take privileges away: capabilities, and the gain of new ones."""

from __future__ import annotations

from cowstore._linux import prctl
from cowstore._linux.capabilities import Cap, ambient_clear, bounding_drop, capget, capset
from cowstore._linux.seccomp import set_mode_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.inside import Inside

ALL_CAPS = (1 << 64) - 1


def limit_capabilities(inside: Inside, *, keep: int) -> None:
    """Take every capability but those of the mask *keep* from all sets, for ever."""
    if inside.chrooted:
        keep &= ~(1 << Cap.SYS_CHROOT)
    _, permitted, _ = capget()
    ambient_clear()
    bounding_drop(ALL_CAPS & ~keep)
    left = permitted & keep
    capset(left, left, 0)


def gain_nothing(inside: Inside) -> None:  # noqa: ARG001  # every step has the same signature
    """Make sure that no program, whatever bits its file has, has more privileges than this one."""
    prctl.set_no_new_privs()


def filter_calls(inside: Inside, *, program: bytes) -> None:  # noqa: ARG001
    """Let only the system calls through that the filter allows."""
    set_mode_filter(program)
