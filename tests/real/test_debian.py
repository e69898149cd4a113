"""Real programs in a Debian of their own, which needs a way to Debian's packages: ``tox -e real``."""

from __future__ import annotations

import os
import platform
import subprocess
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.runtime.remote import server
from tests.conformance.conftest import _verdicts, driver
from tests.leakcheck import nothing_left_behind
from tests.root.runtime.test_programs import DATABASE
from tests.tiers import need_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(900)

__all__ = ["_verdicts", "driver", "nothing_left_behind"]

QUIETLY = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && apt-get -qq install --no-install-recommends"


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a small Debian."""
    need_program("mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("elsewhere: only root can install packages in a root of its own")
    archive = tmp_path_factory.mktemp("debian") / "debian.tar"
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")
    subprocess.run(["mmdebstrap", "--variant=apt", release, str(archive)], check=True, timeout=600)
    return archive


@pytest.fixture
def store(debian: Path, driver: str, tmp_path: Path) -> Iterator[cowstore.Store]:
    with cowstore.open(tmp_path / "store", driver=driver) as opened:
        opened.import_tar(debian, name="debian")
        yield opened
        server.stop()
        opened.destroy()


def sh(store: cowstore.Store, key: str, script: str, *, user: str | None = None, network: str = "none") -> str:
    argv = ["sh", "-c", script]
    done = cowstore.run(store, key=key, argv=argv, user=user, network=network, tmpfs=["/tmp"], capture=True)
    assert done.status == 0, (done.status, (done.out or b"")[-3000:], (done.err or b"")[-3000:])
    assert done.out is not None
    return done.out.decode()


def test_a_package_is_installed(store: cowstore.Store) -> None:
    """On every driver that works here."""
    store.prepare("work", "debian")
    sh(store, "work", f"{QUIETLY} -y hello", network="host")
    store.commit("greeting", "work")
    store.prepare("other", "greeting")
    assert sh(store, "other", "hello") == "Hello, world!\n"


@pytest.mark.parametrize("driver", ["overlay"], indirect=True)
def test_a_database(store: cowstore.Store) -> None:
    store.prepare("work", "debian")
    keep_it_down = "printf 'create_main_cluster = false\\n' > /etc/postgresql-common/createcluster.conf"
    sh(store, "work", f"mkdir -p /etc/postgresql-common && {keep_it_down} && {QUIETLY} -y postgresql", network="host")
    out = sh(store, "work", DATABASE, user="postgres")
    assert out.splitlines() == ["SELECT 1000", "1000|500500", "database system is shut down"]


@pytest.mark.parametrize("driver", ["overlay"], indirect=True)
def test_pythons_own_tests(store: cowstore.Store) -> None:
    """Of processes and signals: nobody knows better what to ask for."""
    store.prepare("work", "debian")
    version = "$(python3 -c 'import sys; print(*sys.version_info[:2], sep=chr(46))')"
    sh(store, "work", f"{QUIETLY} -y python3 && apt-get -qq install -y libpython{version}-testsuite", network="host")
    said = sh(store, "work", "cd /tmp && python3 -m test test_signal test_subprocess 2>&1")
    assert "Result: SUCCESS" in said or "Tests result: SUCCESS" in said
