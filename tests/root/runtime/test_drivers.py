"""A program runs alike on every driver that works on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.runtime.remote import server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cowstore.testing import Factory

from tests.conformance.conftest import _verdicts, driver, factory  # fixtures

__all__ = ["_verdicts", "driver", "factory"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small root: a shell, a few programs, and what they are linked with."""
    made = tmp_path / "root"
    for name in ("proc", "sys", "dev", "etc", "srv", "tmp"):
        (made / name).mkdir(parents=True)
    for program in ("/bin/sh", "/bin/cat", "/bin/rm", "/bin/true", "/usr/bin/id"):
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for path in [program, *(word for word in linked.split() if word.startswith("/"))]:
            target = made / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (made / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/srv:/bin/sh\n")
    (made / "srv/old").write_text("old\n")
    return made


@pytest.fixture
def store(factory: Factory, root: Path, tmp_path: Path) -> Iterator[cowstore.Store]:
    with factory.open(str(tmp_path / "store")) as opened:
        opened.import_directory(root, name="base")
        yield opened
        server.stop()
        opened.destroy()


def test_a_program_runs_alike(store: cowstore.Store) -> None:
    script = "id -u; id -g; rm /srv/old; echo new > /srv/new; cat /srv/new; exit 7"
    store.prepare("work", "base")
    done = cowstore.run(store, key="work", argv=["/bin/sh", "-c", script], capture=True)
    assert (done.status, done.out, done.err) == (7, b"0\n0\nnew\n", b"")
    changed = {(str(change.kind), change.path) for change in store.changes("work")}
    assert changed == {("modified", "srv"), ("deleted", "srv/old"), ("added", "srv/new")}
    store.commit("layer", "work")
    done = cowstore.run(store, parent="layer", argv=["/bin/sh", "-c", "cat /srv/*; id -u"], user="app", capture=True)
    assert (done.status, done.out) == (0, b"new\n1234\n")
    assert sorted(snapshot.key for snapshot in store.walk()) == ["base", "layer"]


def test_the_command(store: cowstore.Store) -> None:
    command = [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", store.root, "--base", "base", "--changes"]
    done = subprocess.run(
        [*command, "--", "/bin/sh", "-c", "echo x > /srv/x; echo said; exit 4"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (4, "said\nM srv\nA srv/x\n", "")
    assert [snapshot.key for snapshot in store.walk()] == ["base"]
