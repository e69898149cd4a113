"""Migration from driver to driver, and back: equal digests throughout, and a kill half-way changes nothing of it."""

from __future__ import annotations

import io
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import AlreadyExists, Unsupported
from tests.root.store.conftest import Layout, tar

if TYPE_CHECKING:
    from pathlib import Path


def fill(store: cowstore.Store, image: Path) -> None:
    """Make a store with everything in it: an image, layers on it, labels, a view, and work in progress."""
    layout = Layout(image)
    layout.add(layout.image(tar(("etc/", ""), ("etc/a", "one")), tar(("etc/a", "two"), ("etc/.wh.none", ""))), "app")
    store.import_image(image, name="app")
    store.import_tar(io.BytesIO(tar(*[(f"f{number}", os.urandom(5000)) for number in range(200)])), name="base")
    for number in range(6):
        store.prepare("job", "base" if number == 0 else f"layer-{number - 1}", labels={"n": str(number)})
        with store.mounted("job") as root:
            (root / f"new-{number}").write_text(str(number))
            (root / f"f{number}").unlink()
            os.link(root / f"f{number + 50}", root / f"linked-{number}")
            os.setxattr(root / f"new-{number}", "user.k", b"\0\xff")
        store.commit(f"layer-{number}", "job", labels={"is": f"layer {number}"})
    store.view("look", "layer-3", labels={"view": "yes"})
    store.prepare("in progress", "layer-5", labels={"active": "yes"})
    with store.mounted("in progress") as root:
        shutil.rmtree(root / "linked-0", ignore_errors=True)
        (root / "unfinished").write_text("work")


def described(store: cowstore.Store) -> dict[str, tuple[object, ...]]:
    """Return every snapshot with its digest and labels."""
    found: dict[str, tuple[object, ...]] = {}
    for snapshot in store.walk():
        layer = io.BytesIO()
        info = store.export_layer(snapshot.key, layer)
        labels = {name: value for name, value in snapshot.labels.items() if name != "cowstore.migrated.diff-id"}
        found[snapshot.key] = (snapshot.kind, snapshot.parent, labels, info.diff_id)
    return found


@pytest.mark.parametrize("other", ["btrfs", "copy"])
def test_there_and_back(tmp_path: Path, other: str) -> None:
    """Killed in the middle and started again, it ends the same; the source is untouched."""
    with cowstore.open(tmp_path / "one", driver="overlay") as one:
        fill(one, tmp_path / "image")
        wanted = described(one)
        cowstore.open(tmp_path / "two", driver=other).close()
        for turn in range(6):
            pid = os.fork()
            if pid == 0:
                try:
                    with cowstore.open(one.root) as source, cowstore.open(tmp_path / "two") as target:
                        list(source.migrate(target))
                finally:
                    os._exit(0)
            time.sleep(0.03 * turn)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        with cowstore.open(tmp_path / "two") as two, cowstore.open(tmp_path / "three", driver="overlay") as three:
            list(one.migrate(two))
            assert two.check() == ()
            assert described(two) == wanted
            assert two.export_image("app", tmp_path / "out") == one.stat("app").labels["cowstore.image.manifest"]
            list(two.migrate(three))
            assert described(three) == wanted
            assert list(one.migrate(two)) == []
            three.destroy()
            two.destroy()
        assert described(one) == wanted
        assert one.check() == ()
        one.destroy()


def test_what_cannot_be_migrated(store: cowstore.Store, tmp_path: Path) -> None:
    store.import_tar(io.BytesIO(tar(("a", "a"))), name="base")
    with cowstore.open(tmp_path / "other", driver="copy") as other:
        other.prepare("base")
        with pytest.raises(AlreadyExists, match="no copy"):
            list(store.migrate(other))
        other.destroy()
    store.adopt("adopted", "/etc")
    with cowstore.open(tmp_path / "other", driver="copy") as other:
        with pytest.raises(Unsupported, match="adopted"):
            list(store.migrate(other))
        other.destroy()
