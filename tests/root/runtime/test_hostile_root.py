"""Roots whose own files try to lead the launcher astray."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.errors import CowstoreError
from cowstore.runtime.binds import Bind

if TYPE_CHECKING:
    from collections.abc import Callable

PATTERN = Path("/proc/sys/kernel/core_pattern")


@pytest.fixture
def work(store: cowstore.Store) -> Callable[[Callable[[Path], object]], None]:
    """Edit the snapshot ``work``, a child of this machine's root."""
    store.prepare("work", "host")

    def edit(change: Callable[[Path], object]) -> None:
        with store.mounted("work") as root:
            change(root)

    return edit


def sh(store: cowstore.Store, script: str, **more: object) -> str:
    done = cowstore.run(store, key="work", argv=["sh", "-c", script], capture=True, **more)  # type: ignore[arg-type]
    assert done.status == 0, (done, script)
    assert done.out is not None
    return done.out.decode()


def test_devices_of_the_image_are_never_used(
    store: cowstore.Store, work: Callable[[Callable[[Path], object]], None]
) -> None:
    """RT-19: its /dev/null leads to a file of the kernel's."""

    def change(root: Path) -> None:
        (root / "dev/null").unlink(missing_ok=True)
        (root / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")

    work(change)
    before = PATTERN.read_text()
    assert sh(store, "stat -c '%F %t:%T' /dev/null; echo x > /dev/null") == "character special file 1:3\n"
    assert PATTERN.read_text() == before


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_link_where_a_mount_belongs_is_refused(
    store: cowstore.Store, work: Callable[[Callable[[Path], object]], None], name: str
) -> None:
    def change(root: Path) -> None:
        shutil.rmtree(root / name)
        (root / name).symlink_to("etc")

    work(change)
    with pytest.raises(CowstoreError, match=f"cannot mount {name}: {name}: "):
        cowstore.run(store, key="work", argv=["true"])


def test_missing_mount_points_are_made(store: cowstore.Store, work: Callable[[Callable[[Path], object]], None]) -> None:
    """They show among the changes, and nothing else does: the root's own time stays."""
    store.prepare("empty")
    with store.mounted("empty") as root:
        (root / "etc").mkdir()
        (root / "bin").mkdir()
    store.commit("bare", "empty")
    store.prepare("child", "bare")
    done = cowstore.run(store, key="child", argv=["/bin/true"])
    assert done.status == 127
    assert [(str(change.kind), change.path) for change in store.changes("child")] == [
        ("added", "dev"),
        ("added", "proc"),
        ("added", "sys"),
    ]


@pytest.mark.parametrize(
    "target", ["/run/x/resolv.conf", "../../../../run/x/resolv.conf", "/run/../../run/./x//resolv.conf"]
)
def test_a_file_bound_over_a_link_lands_inside(
    store: cowstore.Store, work: Callable[[Callable[[Path], object]], None], tmp_path: Path, target: str
) -> None:
    """RT-22: what the link names is made inside the root, the link stays, and this machine is left alone."""

    def change(root: Path) -> None:
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        (root / "etc/resolv.conf").symlink_to(target)

    work(change)
    mine = tmp_path / "mine"
    mine.write_text("nameserver 192.0.2.1\n")
    binds = (Bind(source=str(mine), target="/etc/resolv.conf", read_only=True),)
    out = sh(store, "cat /etc/resolv.conf; readlink /etc/resolv.conf; cat /run/x/resolv.conf", binds=binds)
    assert out == f"nameserver 192.0.2.1\n{target}\nnameserver 192.0.2.1\n"
    assert not os.path.exists("/run/x")
    with store.mounted("work") as root:
        assert os.readlink(root / "etc/resolv.conf") == target
        assert (root / "run/x/resolv.conf").read_bytes() == b""


def test_links_that_go_round_are_an_error(
    store: cowstore.Store, work: Callable[[Callable[[Path], object]], None], tmp_path: Path
) -> None:
    def change(root: Path) -> None:
        (root / "srv/a").symlink_to("b")
        (root / "srv/b").symlink_to("a")

    work(change)
    binds = (Bind(source=str(tmp_path), target="/srv/a/b"),)
    with pytest.raises(CowstoreError, match="Too many levels of symbolic links"):
        cowstore.run(store, key="work", argv=["true"], binds=binds)


def test_a_bind_whose_target_is_of_another_kind_is_an_error(
    store: cowstore.Store, work: Callable[[Callable[[Path], object]], None], tmp_path: Path
) -> None:
    with pytest.raises(CowstoreError, match="cannot bind"):
        cowstore.run(store, key="work", argv=["true"], binds=(Bind(source=str(tmp_path), target="/etc/passwd"),))
    with pytest.raises(CowstoreError, match="cannot open binds: /no/such: No such file or directory"):
        cowstore.run(store, key="work", argv=["true"], binds=(Bind(source="/no/such", target="/srv"),))


def test_no_module_comes_from_the_image(
    store: cowstore.Store, work: Callable[[Callable[[Path], object]], None]
) -> None:
    """Process 1 is Python, and the image has a Python library where this machine has one."""
    import encodings
    import sysconfig

    places = {sysconfig.get_path("stdlib"), os.path.dirname(os.path.dirname(encodings.__file__)), "/work"}

    def change(root: Path) -> None:
        for place in places:
            below = root / place.lstrip("/")
            for module in below.glob("*.py"):
                module.write_text("open('/srv/taken', 'w')\nraise SystemExit(99)\n")

    work(change)
    assert sh(store, "ls /srv; true", network="none").count("taken") == 0
    done = cowstore.run(store, key="work", argv=["no-such-program"])
    assert done.status == 127
    with store.mounted("work") as root:
        assert not (root / "srv/taken").exists()
