"""What a host that gives its users no namespaces is told to have, and by whom that is cured."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from cowstore._rootless.namespace import is_refusal, refusal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"user/max_user_namespaces": "0"}, errno.ENOSPC, "user.max_user_namespaces is 0; raise it"),
        ({"user/max_user_namespaces": "100"}, errno.ENOSPC, "there are as many user namespaces as"),
        ({}, errno.EUSERS, "nested too deep"),
        ({}, errno.EINVAL, "CONFIG_USER_NS"),
        ({"kernel/unprivileged_userns_clone": "0"}, errno.EPERM, "kernel.unprivileged_userns_clone is 0; set it to 1"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, errno.EACCES, "a profile that allows `userns,`"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "0"}, errno.EPERM, "a security module, a filter"),
        ({}, errno.EPERM, "seccomp=unconfined"),
    ],
)
def test_the_cure_is_named(tmp_path: Path, settings: dict[str, str], code: int, says: str) -> None:
    """RT-12: the sysctl, the profile, or the filter; never a bare "Operation not permitted"."""
    for name, value in settings.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{value}\n")
    error = OSError(code, os.strerror(code))
    error.add_note("unshare(2)")
    made = refusal("make a user namespace", error, sysctls=str(tmp_path))
    assert str(made).startswith(f"cannot make a user namespace: {os.strerror(code)} (unshare(2)): ")
    assert says in str(made)
    assert "or run as root" in str(made)
    assert is_refusal(made)
