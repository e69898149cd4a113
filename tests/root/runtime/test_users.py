"""Whom a program runs as: the root's own files decide, as they are now."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.errors import CowstoreError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1234:1235:An app:/srv/app:/bin/sh\n1300:x:1301:1302::/odd:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1235:\nextra:x:1500:app,other\nwide:x:1600:other\n"


@pytest.fixture
def edit(store: cowstore.Store) -> Callable[[str, str], None]:
    store.prepare("work", "host")

    def write(name: str, content: str) -> None:
        with store.mounted("work") as root:
            (root / "etc" / name).unlink(missing_ok=True)
            (root / "etc" / name).write_text(content)

    write("passwd", PASSWD)
    write("group", GROUP)
    return write


def who(store: cowstore.Store, user: str | None, **more: object) -> str:
    script = "import os; print(os.getresuid()[2], os.getresgid()[2], *sorted(os.getgroups()), os.environ['HOME'])"
    done = cowstore.run(
        store,
        key="work",
        argv=["/usr/bin/python3", "-I", "-S", "-c", script],
        user=user,
        capture=True,
        **more,  # type: ignore[arg-type]
    )
    assert done.status == 0, done
    assert done.out is not None
    return done.out.decode().strip()


@pytest.mark.parametrize("as_pid_1", [False, True])
@pytest.mark.parametrize(
    ("user", "says"),
    [
        (None, "0 0 0 /root"),
        ("root", "0 0 0 /root"),
        ("app", "1234 1235 1235 1500 /srv/app"),
        ("1234", "1234 1235 1235 1500 /srv/app"),
        ("app:extra", "1234 1500 1500 /srv/app"),
        ("app:77", "1234 77 77 /srv/app"),
        ("4711", "4711 0 0 /"),
        ("4711:4712", "4711 4712 4712 /"),
        ("1300", "1301 1302 1302 /odd"),
    ],
)
def test_users(
    store: cowstore.Store, edit: Callable[[str, str], None], user: str | None, says: str, as_pid_1: bool
) -> None:
    """RT-25."""
    assert who(store, user, as_pid_1=as_pid_1) == says


def test_the_files_are_read_as_they_are_now(store: cowstore.Store, edit: Callable[[str, str], None]) -> None:
    """RT-25."""
    assert who(store, "app").startswith("1234 ")
    edit("passwd", PASSWD.replace("1234", "2234"))
    assert who(store, "app").startswith("2234 ")


@pytest.mark.parametrize("user", ["nobody-here", "app:nobody-here", "4294967295", "-1"])
def test_unknown_users(store: cowstore.Store, edit: Callable[[str, str], None], user: str) -> None:
    """RT-25: never looked up outside."""
    with pytest.raises(CowstoreError, match=r"there is no (user|group) '.*' in /etc/(passwd|group) of the root"):
        who(store, user)


@pytest.mark.parametrize("user", ["", ":", "a:", ":b", "a:b:c", "a\0"])
def test_what_is_no_user(store: cowstore.Store, edit: Callable[[str, str], None], user: str) -> None:
    with pytest.raises(InvalidArgument, match="is no user"):
        who(store, user)


def test_hostile_files(store: cowstore.Store, edit: Callable[[str, str], None]) -> None:
    with store.mounted("work") as root:
        (root / "etc/passwd").unlink()
        (root / "etc/passwd").symlink_to("/proc/self/environ")
    with pytest.raises(CowstoreError):
        who(store, "app")
    with store.mounted("work") as root:
        (root / "etc/passwd").unlink()
        os.mkfifo(root / "etc/passwd")
    with pytest.raises(CowstoreError, match="plain file"):
        who(store, "app")
    with store.mounted("work") as root:
        (root / "etc/passwd").unlink()
    assert who(store, "77") == "77 0 0 /"


def test_an_ordinary_user_has_no_capability_and_standard_streams(
    store: cowstore.Store, edit: Callable[[str, str], None]
) -> None:
    """RT-07: /dev/stdout and a terminal, for anybody."""
    script = "grep -E 'Cap(Eff|Prm)' /proc/self/status; echo x > /dev/stdout; echo y > /dev/stderr; head -c1 /dev/stdin"
    done = cowstore.run(store, key="work", argv=["sh", "-c", script], user="app", capture=True, stdin=b"z")
    assert done.out is not None
    assert done.out.split() == [b"CapPrm:", b"0" * 16, b"CapEff:", b"0" * 16, b"x", b"z"]
    assert done.err == b"y\n"


def test_an_image_says_how_it_is_run(store: cowstore.Store, edit: Callable[[str, str], None]) -> None:
    config = {
        "Env": ["A=1", "B=2"],
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["id -u; pwd; echo $A $B"],
        "User": "app",
        "WorkingDir": "/usr",
    }
    store.commit("image", "work", labels={"cowstore.image.config": json.dumps({"config": config})})
    assert cowstore.run(store, parent="image", env={"B": "3"}, capture=True).out == b"1234\n/usr\n1 3\n"
    done = cowstore.run(store, parent="image", argv=["sh", "-c", "id -u; pwd"], user="0", cwd="/", capture=True)
    assert done.out == b"0\n/\n"
    store.prepare("next", "image")
    store.commit("child", "next")
    assert cowstore.run(store, parent="child", capture=True).out == b"1234\n/usr\n1 2\n"
    with pytest.raises(InvalidArgument, match="no program"):
        cowstore.run(store, parent="host")
