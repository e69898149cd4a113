"""`cowstore diff`, `apply` and `squash`: a change travels from one snapshot to another as a layer."""

from __future__ import annotations

import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.root.cli.shell import COWSTORE, Shell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["overlay", "copy"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """A store with `base`, and its child `job` in which one file was added and one is gone."""
    shell = Shell(tmp_path / "store", request.param)
    source, point = tmp_path / "source", tmp_path / "point"
    source.mkdir()
    point.mkdir()
    (source / "gone").write_text("x")
    shell("import", source, "--name", "base")
    shell("prepare", "job", "base")
    shell("mount", "job", point)
    (point / "gone").unlink()
    (point / "new").write_text("content\n")
    shell("umount", point)
    return shell


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_change_travels(shell: Shell, tmp_path: Path, compression: str) -> None:
    layer = tmp_path / "layer"
    info = shell.json("diff", "job", "-o", layer, "--compression", compression)
    assert isinstance(info, dict)
    assert info["size_bytes"] == layer.stat().st_size
    assert (info["diff_id"] == info["digest"]) == (compression == "none")
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
    shell("prepare", "other", "base")
    applied = shell.json("apply", "other", layer)
    assert isinstance(applied, dict)
    assert applied["diff_id"] == info["diff_id"]
    assert shell("changes", "other", "job") == ""
    assert "D gone" in shell("changes", "other")


def test_through_a_pipe(shell: Shell, tmp_path: Path) -> None:
    done = shell.run("diff", "job")
    assert done.returncode == 0
    layer = tmp_path / "layer.tar"
    layer.write_bytes(done.stdout)
    with tarfile.open(layer) as tar:
        assert {"new", ".wh.gone"} <= set(tar.getnames())
    shell("prepare", "other", "base")
    shell("apply", "other", "-", data=done.stdout)
    assert shell("changes", "other", "job") == ""


def test_a_reader_who_leaves_early(shell: Shell, tmp_path: Path) -> None:
    point = tmp_path / "point"
    shell("mount", "job", point)
    (point / "large").write_bytes(os.urandom(1 << 20))
    shell("umount", point)
    read, write = os.pipe()
    os.close(read)
    try:
        command = [*COWSTORE, "--store", str(shell.root), "diff", "job"]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_squash(shell: Shell) -> None:
    shell("commit", "top", "job")
    assert shell("squash", "flat", "top") == "flat\n"
    assert shell("changes", "flat", "top") == ""
    found = shell.json("ls", "--kind", "committed")
    assert isinstance(found, list)
    assert {snapshot["key"]: snapshot["parent"] for snapshot in found} == {"base": None, "top": "base", "flat": None}


def test_a_failing_diff_leaves_no_file(shell: Shell, tmp_path: Path) -> None:
    assert "missing" in shell.fails("diff", "missing", "-o", tmp_path / "layer")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("layer")] == []
    assert "--output" in shell.fails("diff", "job", "--json")


def test_a_broken_layer_is_refused(shell: Shell, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    shell("diff", "job", "-o", layer)
    layer.write_bytes(layer.read_bytes()[:700])
    shell("prepare", "other", "base")
    shell.fails("apply", "other", layer)
    assert shell.json("check") == []
    assert shell.keys() == {"base", "job"}, "the half-changed snapshot is gone"
