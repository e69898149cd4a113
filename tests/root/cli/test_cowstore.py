"""The `cowstore` command on real stores: the life of a layer, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from tests.root.cli.shell import COWSTORE, Shell

if TYPE_CHECKING:
    from pathlib import Path

@pytest.fixture(params=["overlay", "copy"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    return Shell(tmp_path / "store", request.param)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "etc").mkdir(parents=True)
    (root / "etc/motd").write_text("hello\n")
    (root / "etc/gone").write_text("x")
    return root


def test_one_life_of_a_layer(shell: Shell, source: Path, tmp_path: Path) -> None:
    point = tmp_path / "point"
    point.mkdir()
    assert shell("import", source, "--name", "base") == "base\n"
    assert shell("prepare", "job", "base", "--label", "a=b") == "job\n"
    shell("mount", "job", point)
    assert (point / "etc/motd").read_text() == "hello\n"
    (point / "etc/motd").write_text("changed\n")
    (point / "etc/gone").unlink()
    (point / "new\nline").write_text("x")
    assert "job" in shell.fails("rm", "job"), "it is mounted"
    assert shell.json("mount") == [{"key": "job", "target": str(point)}]
    assert shell("mount") == f"KEY  DIR\njob  {point}\n"
    shell("umount", point)
    assert shell("mount") == ""
    assert list(point.iterdir()) == []
    assert shell("changes", "job") == "M etc\nD etc/gone\nM etc/motd\nA new\\x0aline\n"
    assert shell("changes", "-0", "job") == "M etc\0D etc/gone\0M etc/motd\0A new\nline\0"
    assert shell.json("changes", "job") == [
        {"kind": "modified", "path": "etc"},
        {"kind": "deleted", "path": "etc/gone"},
        {"kind": "modified", "path": "etc/motd"},
        {"kind": "added", "path": "new\nline"},
    ]
    assert shell("commit", "done", "job") == "done\n"
    assert shell("view", "look", "--parent", "done") == "look\n"
    assert shell("changes", "look", "base") == "M etc\nD etc/gone\nM etc/motd\nA new\\x0aline\n"
    assert shell("tree") == "base\n└── done\n    └── look  (view)\n"
    assert "done" in shell.fails("rm", "done"), "it has a child"
    shell("rm", "look", "done", "base")
    assert shell.keys() == set()
    assert shell.run("check").stderr == b"cowstore: nothing wrong was found\n"
    shell("destroy")
    assert not shell.root.exists()


def test_json_of_everything(shell: Shell, source: Path) -> None:
    made = shell.json("import", source, "--name", "base")
    assert isinstance(made, dict)
    assert made["kind"] == "committed"
    assert made["parent"] is None
    prepared = shell.json("prepare", "job", "base", "--label", "a=b")
    assert isinstance(prepared, dict)
    assert prepared == shell.json("ls", "--kind", "active")[0]  # type: ignore[index]
    assert prepared["labels"] == {"a": "b"}
    assert set(prepared) == {"key", "kind", "parent", "labels", "created", "updated", "id"}
    nested = shell.json("tree")
    assert isinstance(nested, list)
    assert [(node["key"], [child["key"] for child in node["children"]]) for node in nested] == [("base", ["job"])]
    room = shell.json("df")
    assert isinstance(room, dict)
    assert [entry["key"] for entry in room["snapshots"]] == ["base", "job"]
    assert 0 < room["free_bytes"] <= room["total_bytes"]
    state = shell.json("info")
    assert isinstance(state, dict)
    assert state["store"]["driver"] == shell.driver
    assert state["store"]["snapshots"] == {"active": 1, "view": 0, "committed": 1}
    assert [driver["usable"] for driver in state["drivers"]] == [True]
    assert shell.json("check") == []
    failed = shell.json("rm", "missing", status=1)
    assert isinstance(failed, dict)
    assert (failed["error"]["class"], failed["error"]["key"]) == ("NotFound", "missing")
    assert shell.json("rm", "job") == {"removed": ["job"]}
    assert shell.json("destroy") == {"destroyed": str(shell.root)}


def test_a_tar_from_standard_input(shell: Shell, source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, ".")
    shell("import", "-", "--name", "piped", data=archive.read_bytes())
    shell("import", archive, "--name", "file")
    assert shell("changes", "piped", "file") == ""
    assert shell.keys() == {"piped", "file"}


def test_a_truncated_tar_leaves_nothing(shell: Shell, source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, ".")
    archive.write_bytes(archive.read_bytes()[:-20])
    assert "root.tar.gz" in shell.fails("import", archive, "--name", "half")
    assert shell.keys() == set()
    assert shell.json("check") == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_import_leaves_nothing(shell: Shell, number: signal.Signals, status: int) -> None:
    """Ctrl-C while an archive is being read: nothing half-made is left, and nothing is said about it."""
    command = [*COWSTORE, "--store", str(shell.root), "--driver", shell.driver, "import", "-", "--name", "never"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        header = tarfile.TarInfo("file")
        header.size = 1 << 20
        process.stdin.write(header.tobuf() + bytes(1000))
        process.stdin.flush()
        deadline = time.monotonic() + 20
        while not (shell.root / "catalog.db").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(20) == status
        assert process.stderr.read() == b""
    assert shell.keys() == set()
    assert shell.json("check") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prepare", "base"], "base"),
        (["prepare", "new", "missing"], "missing"),
        (["prepare", "new", "active"], "active"),
        (["prepare", "new", "base", "--parent", "other"], "other"),
        (["prepare", ""], "empty"),
        (["prepare", "x" * 256], "255"),
        (["view", "new"], "--parent"),
        (["view", "new", "active"], "active"),
        (["commit", "new", "base"], "base"),
        (["commit", "base", "active"], "base"),
        (["commit", "new", "missing"], "missing"),
        (["rm", "missing"], "missing"),
        (["rm", "base"], "active"),
        (["changes", "missing"], "missing"),
        (["df", "missing"], "missing"),
        (["mount", "active", "/nonesuch/dir"], "/nonesuch/dir"),
        (["mount", "missing", "/"], "missing"),
        (["mount", "active"], "directory"),
        (["umount", "/nonesuch"], "/nonesuch"),
        (["import", "/nonesuch.tar", "--name", "new"], "/nonesuch.tar"),
        (["import", "/bin/sh", "--name", "new"], "/bin/sh"),
        (["ls", "--option", "nonesuch=1"], "nonesuch"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_refused_says_why_and_changes_nothing(
    shell: Shell, source: Path, words: list[str], says: str
) -> None:
    shell("import", source, "--name", "base")
    shell("prepare", "active", "base")
    assert says in shell.fails(*words)
    assert shell.keys() == {"base", "active"}


def test_the_wrong_driver_is_refused(shell: Shell) -> None:
    shell("prepare", "k")
    other = Shell(shell.root, "copy" if shell.driver == "overlay" else "overlay")
    line = other.fails("ls")
    assert shell.driver in line
    assert other.driver in line


def test_info_without_a_store(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COWSTORE, "info", "--json", "--store", str(tmp_path / "missing")], capture_output=True, timeout=60, check=True
    )
    state = json.loads(done.stdout)
    assert state["store"] is None
    assert "overlay" in {driver["name"] for driver in state["drivers"] if driver["usable"]}
    for driver in state["drivers"]:
        assert driver["usable"] or driver["reason"]
    assert list(tmp_path.iterdir()) == []


def test_a_reader_who_leaves_early(shell: Shell) -> None:
    """`cowstore ls | head -1`: no traceback, no message, nothing left behind."""
    for number in range(3):
        shell("prepare", f"k{number}")
    command = " ".join([*COWSTORE, "--store", str(shell.root), "tree"])
    done = subprocess.run(
        ["bash", "-c", f'{command} | true; echo "${{PIPESTATUS[0]}}"'], capture_output=True, timeout=60, check=True
    )
    assert done.stderr == b""
    assert done.stdout in {b"141\n", b"0\n"}


def test_destroy_asks_a_person(shell: Shell) -> None:
    import pty

    shell("prepare", "k")
    for answer, status in ((b"n\n", 1), (b"y\n", 0)):
        leader, follower = pty.openpty()
        try:
            os.write(leader, answer)
            done = subprocess.run(
                [*COWSTORE, "--store", shell.root, "destroy"],
                stdin=follower, capture_output=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            os.close(leader)
            os.close(follower)
        assert done.returncode == status
        assert b"1 snapshots" in done.stderr
        assert shell.root.exists() == (status == 1)


def test_tables_on_a_terminal(shell: Shell) -> None:
    """Drawn by rich where it is installed, plain where it is not; all names are there either way."""
    import pty

    shell("prepare", "some-key")
    leader, follower = pty.openpty()
    try:
        process = subprocess.Popen([*COWSTORE, "--store", shell.root, "ls"], stdout=follower)
        assert process.wait(60) == 0
        assert b"some-key" in os.read(leader, 1 << 16)
    finally:
        os.close(leader)
        os.close(follower)
