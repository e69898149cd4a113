"""Real programs: what people would run first."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from tests.tiers import need_program

if TYPE_CHECKING:
    from collections.abc import Iterable

MAIN = "int answer(void);\nint main(void) { return answer(); }\n"
DATABASE = """
set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
initdb -D /tmp/db -A trust --no-sync > /tmp/initdb.log 2>&1 || { cat /tmp/initdb.log; exit 1; }
pg_ctl -D /tmp/db -l /tmp/log -o "-k /tmp -c listen_addresses=" -w start > /dev/null || { cat /tmp/log; exit 1; }
createdb -h /tmp answers
psql -h /tmp -At answers -c "create table t as select generate_series(1, 1000) as n" -c "select count(*), sum(n) from t"
pg_ctl -D /tmp/db -m fast -w stop > /dev/null
grep -o "database system is shut down" /tmp/log
"""


def sh(store: cowstore.Store, script: str, *, user: str | None = None, tmpfs: Iterable[str] = ()) -> str:
    argv = ["sh", "-c", script]
    done = cowstore.run(store, key="work", argv=argv, user=user, tmpfs=tmpfs, capture=True, timeout_s=100)
    assert done.status == 0, done
    assert done.out is not None
    return done.out.decode()


def test_a_build(store: cowstore.Store) -> None:
    need_program("gcc")
    store.prepare("work", "host")
    with store.mounted("work") as root:
        (root / "srv/build").mkdir()
        (root / "srv/build/main.c").write_text(MAIN)
        (root / "srv/build/answer.c").write_text("int answer(void) { return 42; }\n")
    build = "gcc -c main.c answer.c && gcc -o program main.o answer.o"
    out = sh(store, f"cd /srv/build && {build} && ./program; echo $?; ls")
    assert out.split() == ["42", "answer.c", "answer.o", "main.c", "main.o", "program"]


def test_a_database(store: cowstore.Store) -> None:
    """PostgreSQL is initialised, started, queried and stopped, with locks, shared memory and processes of its own."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("elsewhere: PostgreSQL is not installed; `tox -e real` installs it in a root of its own")
    store.prepare("work", "host")
    out = sh(store, DATABASE, user="postgres", tmpfs=["/tmp"])  # inside
    assert out.splitlines() == ["SELECT 1000", "1000|500500", "database system is shut down"]


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="elsewhere: this is no Debian")
def test_packages(store: cowstore.Store) -> None:
    """A package is made, installed and removed; this machine knows nothing of it."""
    store.prepare("work", "host")
    script = (
        "mkdir -p /srv/p/DEBIAN /srv/p/opt && echo x > /srv/p/opt/x && "
        "printf 'Package: greeting\\nVersion: 1\\nArchitecture: all\\nMaintainer: n <n@n>\\nDescription: x\\n' "
        "> /srv/p/DEBIAN/control && dpkg-deb -b /srv/p /srv/p.deb > /dev/null && dpkg -i /srv/p.deb > /dev/null && "
        "cat /opt/x && dpkg-query -W -f '${db:Status-Status}\\n' greeting && dpkg -P greeting > /dev/null && ls /opt/x"
    )
    done = cowstore.run(store, key="work", argv=["sh", "-c", script], capture=True, timeout_s=100)
    assert (done.out, done.status) == (b"x\ninstalled\n", 2), done
    assert not Path("/opt/x").exists()
