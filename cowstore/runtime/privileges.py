"""Steps that take privileges away: capabilities, and the gain of new ones."""

from __future__ import annotations

from cowstore._linux import prctl
from cowstore._linux.capabilities import Cap, ambient_clear, bounding_drop, capget, capset
from cowstore._linux.seccomp import set_mode_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.inside import Inside

ALL_CAPS = (1 << 64) - 1


def bound_capabilities(inside: Inside, *, keep: int) -> None:
    """Make sure that no program ever has a capability that is not of the mask *keep*."""
    ambient_clear()
    bounding_drop(ALL_CAPS & ~_within(inside, keep))


def limit_capabilities(inside: Inside, *, keep: int) -> None:
    """Give up every capability but those of the mask *keep*."""
    _, permitted, _ = capget()
    left = permitted & _within(inside, keep)
    capset(left, left, 0)


def _within(inside: Inside, keep: int) -> int:
    """A root that was entered by chroot(2) could be left by it."""
    return keep & ~(1 << Cap.SYS_CHROOT) if inside.chrooted else keep


def gain_nothing(inside: Inside) -> None:  # noqa: ARG001  # every step has the same signature
    """Make sure that no program, whatever bits its file has, has more privileges than this one."""
    prctl.set_no_new_privs()


def filter_calls(inside: Inside, *, program: bytes) -> None:  # noqa: ARG001
    """Let only the system calls through that the filter allows."""
    set_mode_filter(program)
