"""Opening, making and refusing stores."""

from __future__ import annotations

import codecs
import importlib
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import CowstoreError, DriverUnavailable, InvalidArgument, NotFound, StoreCorrupt, StoreMismatch
from cowstore.drivers import _options
from tests.unit.store.plain import Plain, PlainOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_make_and_open_again(opened: Callable[..., cowstore.Store], root: Path) -> None:
    opened().prepare("job")
    assert opened(driver=None).stat("job").key == "job"
    assert root.stat().st_mode & 0o777 == 0o700


def test_not_there(root: Path) -> None:
    with pytest.raises(NotFound):
        cowstore.open(root, driver="plain", create=False)
    with pytest.raises(NotFound):
        cowstore.open(root, driver="plain", read_only=True)
    assert not root.exists()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreMismatch, match="directory"):
            cowstore.open(path, driver="plain")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_with_other_things_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(StoreMismatch, match=r"photo\.jpg"):
        cowstore.open(tmp_path, driver="plain")
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_a_path_too_long_for_the_catalog(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="bytes"):
        cowstore.open(tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 200), driver="plain")
    assert os.listdir(tmp_path) == []
    short = str(tmp_path / "s")
    fitting = os.path.join(short, "x" * 200, "y" * (470 - len(short) - 202))
    with cowstore.open(fitting, driver="plain") as store:
        store.prepare("job")


def test_drafts_do_not_stay(opened: Callable[..., cowstore.Store], root: Path) -> None:
    opened().close()
    (root / "catalog.db.new-0123456789abcdef").touch()
    opened().close()
    assert {name for name in os.listdir(root) if name.startswith("catalog.db.new")} == set()


def test_an_interrupted_making_is_done_again(root: Path) -> None:
    """DM-19: a failed first start is not in the way of the second."""
    for name in ("leases", "owners", "overlay"):
        (root / name).mkdir(parents=True)
    (root / "catalog.db.new-0123").touch()
    cowstore.open(root, driver="plain").close()


def test_a_driver_that_does_not_work_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cls: type, directory: str, options: object) -> None:
        raise DriverUnavailable("plain: no moon", driver="plain", missing=["a moon"])

    with monkeypatch.context() as patch:
        patch.setattr(Plain, "probe", classmethod(refuse))
        with pytest.raises(DriverUnavailable) as caught:
            cowstore.open(root / "a" / "b", driver="plain")
        assert caught.value.missing == ("a moon",)
        assert not root.exists()
    cowstore.open(root, driver="plain").close()


def test_another_driver(opened: Callable[..., cowstore.Store], root: Path) -> None:
    """ST-15: the message has both names and the path, and the way out."""
    opened()
    with pytest.raises(StoreMismatch) as caught:
        cowstore.open(root, driver="copy")
    assert (caught.value.expected, caught.value.found) == ("plain", "copy")
    assert str(root) in str(caught.value)
    with pytest.raises(InvalidArgument):
        cowstore.open(root, driver="")


def test_an_unknown_driver(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="overlay"):
        cowstore.open(root, driver="zfs")
    assert not root.exists()


def test_a_lost_driver_name(opened: Callable[..., cowstore.Store], root: Path) -> None:
    """ST-15: an empty name is damage, not another driver."""
    opened().close()
    with sqlite3.connect(root / "catalog.db") as connection:
        connection.execute("UPDATE meta SET value = '' WHERE name = 'driver'")
    connection.close()
    with pytest.raises(StoreCorrupt, match="destroy"):
        opened(driver=None)


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_cut_catalog(opened: Callable[..., cowstore.Store], root: Path, keep: float) -> None:
    """ST-02: a catalog cut to nothing or to half is named, and nothing is deleted."""
    store = opened()
    for number in range(200):
        store.prepare(str(number))
    store.close()
    size = (root / "catalog.db").stat().st_size
    os.truncate(root / "catalog.db", int(size * keep))

    def look() -> None:
        damaged = opened()
        list(damaged.walk())
        for finding in damaged.check():
            raise StoreCorrupt(finding.text)

    with pytest.raises(StoreCorrupt, match=r"catalog\.db"):
        look()
    assert len(os.listdir(root / "plain")) == 200


def test_a_lost_catalog(opened: Callable[..., cowstore.Store], root: Path) -> None:
    store = opened()
    store.prepare("job")
    store.close()
    (root / "catalog.db").unlink()
    with pytest.raises((StoreCorrupt, StoreMismatch)):
        cowstore.open(root, driver="plain")
    assert (root / "plain/1").exists()


def test_a_catalog_from_the_future(opened: Callable[..., cowstore.Store], root: Path) -> None:
    opened().close()
    connection = sqlite3.connect(root / "catalog.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreMismatch) as caught:
        opened()
    assert caught.value.found == "99"


def test_a_directory_that_may_not_be_read(root: Path) -> None:
    # Loaded before the change of user: the place it is loaded from may be closed to others.
    importlib.import_module("cowstore._access")
    codecs.lookup("ascii")
    if os.geteuid() == 0:
        # Root may read everything: become somebody else for the length of the call.
        root.mkdir(mode=0o700)
        os.seteuid(65534)
    else:
        root.mkdir(mode=0)
    try:
        with pytest.raises(CowstoreError, match="user"):
            cowstore.open(root, driver="plain")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        root.chmod(0o700)


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cowstore._opening import default_root

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_root() == str(tmp_path / "cowstore")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_root() == "/home/me/.local/share/cowstore"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == "/var/lib/cowstore"


def test_options_are_kept_and_checked(opened: Callable[..., cowstore.Store], root: Path) -> None:
    opened(options={"limit_bytes": "4K", "eager": "yes"}).close()
    assert opened()._core.options == PlainOptions(limit_bytes=4096, eager=True)
    assert opened(options={"eager": False})._core.options == PlainOptions(limit_bytes=4096, eager=False)
    for wrong in ({"limits": 1}, {"limit_bytes": "many"}, {"eager": "maybe"}, {"limit_bytes": True}):
        with pytest.raises(InvalidArgument):
            opened(options=wrong)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("17", 17), ("1k", 1024), ("2KiB", 2048), ("3M", 3 << 20), ("1gb", 1 << 30), ("1T", 1 << 40)],
)
def test_sizes(text: str, number: int) -> None:
    assert _options.size(text) == number


@pytest.mark.parametrize("text", ["", "k", "1.5G", "-1", "0x10", "1 0", "٣"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        _options.size(text)


def test_a_copied_store(opened: Callable[..., cowstore.Store], root: Path, tmp_path: Path) -> None:
    """A copy made while the store is in use opens, and what was under way in it is undone there alone."""
    store = opened()
    store.prepare("kept")
    store.prepare("short", ephemeral=True)
    shutil.copytree(root, tmp_path / "copy")
    with cowstore.open(tmp_path / "copy") as copy:
        assert [snapshot.key for snapshot in copy.walk()] == ["kept"]
        assert copy.check() == ()
    assert {snapshot.key for snapshot in store.walk()} == {"kept", "short"}
