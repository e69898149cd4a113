"""Images in and out: what the formats allow, what the field has seen, and what must be refused."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import cowstore
from cowstore import AlreadyExists, CowstoreError, InvalidImage, InvalidLayer, Kind
from tests.root.store.conftest import Layout, digest, tar, tree

BASE = tar(("etc/", ""), ("etc/a", "one"), ("etc/b", "two"), ("srv/", ""), ("srv/x", "x"))
TOP = tar(("etc/a", "changed"), ("etc/.wh.b", ""), ("new", "new"))
MERGED = {"etc": "/", "etc/a": "changed", "srv": "/", "srv/x": "x", "new": "new"}


def keys(store: cowstore.Store) -> set[str]:
    return {snapshot.key for snapshot in store.walk()}


def test_a_layout(any_store: cowstore.Store, layout: Layout) -> None:
    layout.add(layout.image(BASE, TOP), "app")
    made = any_store.import_image(layout.path, name="app")
    assert (made.key, made.kind) == ("app", Kind.COMMITTED)
    assert made.parent == digest(BASE)
    assert tree(any_store, "app") == MERGED
    assert json.loads(made.labels["cowstore.image.config"])["config"]["Cmd"] == ["/bin/sh"]
    assert any_store.check() == ()


@pytest.mark.parametrize("packed", [lambda data: data, gzip.compress, bz2.compress, lzma.compress])
def test_a_layout_in_an_archive(store: cowstore.Store, layout: Layout, tmp_path: Path, packed: object) -> None:
    layout.add(layout.image(BASE, TOP), "app")
    archive = layout.archive(tmp_path / "image.tar")
    archive.write_bytes(packed(archive.read_bytes()))  # type: ignore[operator]
    store.import_image(archive, name="app")
    assert tree(store, "app") == MERGED
    with archive.open("rb") as file:
        store.import_image(file, name="from a file object")
    assert tree(store, "from a file object") == MERGED


def test_layers_are_shared(store: cowstore.Store, layout: Layout) -> None:
    """Layers here already are not unpacked again; a top layer that is here makes an empty child."""
    layout.add(layout.image(BASE, TOP), "app")
    store.import_image(layout.path, name="app")
    other = Layout(layout.path.with_name("other"))
    other.add(other.image(BASE, tar(("other", "o"))), "other")
    assert store.import_image(other.path, name="other").parent == digest(BASE)
    again = store.import_image(layout.path, name="again")
    assert again.parent == "app"
    assert list(store.changes("again")) == []
    base = Layout(layout.path.with_name("base"))
    base.add(base.image(BASE), "base")
    assert store.import_image(base.path, name="base").parent == digest(BASE)
    assert keys(store) == {digest(BASE), "app", "other", "again", "base"}
    with pytest.raises(AlreadyExists):
        store.import_image(layout.path, name="app")


def test_unchanged_means_the_same_manifest(any_store: cowstore.Store, layout: Layout, tmp_path: Path) -> None:
    """Import, change nothing, export: the same manifest digest, whatever packed the layers."""
    image = layout.image(BASE, TOP, packed=lambda data: gzip.compress(data, 1, mtime=77))
    layout.add(image, "app")
    any_store.import_image(layout.path, name="app")
    assert any_store.export_image("app", tmp_path / "out") == image["digest"]
    any_store.import_image(layout.path, name="shares its layers")
    assert any_store.export_image("shares its layers", tmp_path / "out2") == image["digest"]
    assert any_store.export_image("shares its layers", tmp_path / "out3.tar") == image["digest"]


def test_blobs_go_with_the_last_that_names_them(store: cowstore.Store, layout: Layout) -> None:
    layout.add(layout.image(BASE, TOP), "app")
    store.import_image(layout.path, name="app")
    blobs = os.path.join(store.root, "blobs")
    assert len(os.listdir(blobs)) == 4
    store.remove("app")
    assert len(os.listdir(blobs)) == 1
    store.remove(digest(BASE))
    assert os.listdir(blobs) == []


def test_one_commit_more(any_store: cowstore.Store, layout: Layout, tmp_path: Path) -> None:
    """What is made on an imported image goes out with its layers as they came, and its config."""
    layout.add(layout.image(BASE, TOP, config={"history": [{"created_by": "x"}, {"created_by": "y"}]}), "app")
    any_store.import_image(layout.path, name="app")
    any_store.prepare("job", "app")
    with any_store.mounted("job") as root:
        (root / "more").write_text("more")
    any_store.commit("more", "job")
    found = any_store.export_image("more", tmp_path / "out", ref="more:1")
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert index["manifests"][0]["digest"] == found
    assert index["manifests"][0]["annotations"] == {"org.opencontainers.image.ref.name": "more:1"}
    manifest = json.loads((tmp_path / "out/blobs/sha256" / found.partition(":")[2]).read_text())
    kept = [digest(gzip.compress(layer, mtime=0)) for layer in (BASE, TOP)]
    assert [layer["digest"] for layer in manifest["layers"]][:2] == kept
    config = json.loads((tmp_path / "out/blobs/sha256" / manifest["config"]["digest"].partition(":")[2]).read_text())
    assert config["config"] == {"Cmd": ["/bin/sh"]}
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == len(config["history"]) == 3
    any_store.import_image(tmp_path / "out", name="back")
    assert list(any_store.changes("back", "more")) == []


def test_running_nothing_makes_an_empty_layer(any_store: cowstore.Store, layout: Layout) -> None:
    layout.add(layout.image(BASE, TOP), "app")
    any_store.import_image(layout.path, name="app")
    any_store.prepare("job", "app")
    with any_store.mounted("job"):
        pass
    made = io.BytesIO()
    any_store.export_layer("job", made)
    made.seek(0)
    with tarfile.open(fileobj=made) as archive:
        assert archive.getnames() == []


def test_plain_root_file_systems(store: cowstore.Store, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar(("bin/", ""), ("bin/sh", "#"), ("index.json", "{}")))
    assert tree(store, store.import_image(tmp_path / "root.tar", name="archive").key)["bin/sh"] == "#"
    (tmp_path / "tree/bin").mkdir(parents=True)
    assert tree(store, store.import_image(tmp_path / "tree", name="directory").key) == {"bin": "/"}


# docker-archives


def docker_archive(path: Path, *layers: tuple[str, bytes | str], config: bytes | None = None, **more: object) -> Path:
    """Write what ``docker save`` writes; a layer given as text is a symbolic link to that."""
    contents = dict(layers)
    real = [contents[name] for name, _ in layers]
    unlinked = [contents[os.path.normpath(f"{os.path.dirname(name)}/{data}")] if isinstance(data, str) else data
                for (name, data) in zip(contents, real, strict=True)]  # fmt: skip
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest(data) for data in unlinked]}}  # type: ignore[arg-type]
    config = config or json.dumps(document).encode()
    name = f"{digest(config).partition(':')[2]}.json"
    manifest = [{"Config": name, "RepoTags": ["app:1"], "Layers": list(contents), **more}]
    with tarfile.open(path, "w") as archive:
        for member, data in [(name, config), *contents.items(), ("manifest.json", json.dumps(manifest).encode())]:
            info = tarfile.TarInfo(member)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


A, B, C = (f"{letter * 64}/layer.tar" for letter in "abc")


def test_repeated_layers_are_links(store: cowstore.Store, tmp_path: Path) -> None:
    """IO-01: a repeated layer is a link relative to the entry's own folder."""
    path = docker_archive(tmp_path / "d.tar", (A, BASE), (B, TOP), (C, f"../{'a' * 64}/layer.tar"))
    store.import_image(path, name="app")
    assert tree(store, "app")["etc/a"] == "one"


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", f"../{'c' * 64}/layer.tar"])
def test_links_out_of_the_archive(store: cowstore.Store, tmp_path: Path, target: str) -> None:
    """IO-01: links out of the archive, and loops, are errors; no file of the host is read."""
    path = tmp_path / "d.tar"
    docker_archive(path, (A, BASE))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo(C)
        link.type, link.linkname = tarfile.SYMTYPE, target
        archive.addfile(link)
        manifest = json.dumps([{"Config": archive.getnames()[0], "Layers": [C]}]).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(manifest)
        archive.addfile(info, io.BytesIO(manifest))
    with pytest.raises(InvalidImage):
        store.import_image(path, name="app")
    assert keys(store) == set()


@pytest.mark.parametrize("layers", [[""], ["missing/layer.tar"], None, [7]])
def test_layers_that_are_not_there(store: cowstore.Store, tmp_path: Path, layers: object) -> None:
    """IO-03: the message has the image and the layer; the store is unchanged."""
    path = docker_archive(tmp_path / "d.tar", (A, BASE), Layers=layers)
    with pytest.raises(InvalidImage, match="app:1"):
        store.import_image(path, name="app")
    assert keys(store) == set()


def test_no_image_and_two_images(store: cowstore.Store, tmp_path: Path) -> None:
    """IO-03, IO-05: none is an error, and of several the candidates are listed."""
    for manifest, said in (([], "no image"), ([{"RepoTags": ["a:1"]}, {"RepoTags": ["b:1"]}], "a:1; b:1")):
        path = tmp_path / "d.tar"
        path.write_bytes(tar(("manifest.json", json.dumps(manifest))))
        with pytest.raises(InvalidImage, match=said):
            store.import_image(path, name="app")


def test_a_damaged_config(store: cowstore.Store, tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "d.tar", (A, BASE))
    path.write_bytes(path.read_bytes().replace(b'"amd64"', b'"arm64"'))
    with pytest.raises(InvalidImage, match="damaged"):
        store.import_image(path, name="app")


# OCI indexes


def test_index_quirks(store: cowstore.Store, layout: Layout) -> None:
    """IO-05: one unnamed image is fine; two of one name are not; attestations and other platforms are passed over."""
    one, two = layout.image(BASE), layout.image(TOP)
    layout.add(one)
    store.import_image(layout.path, name="unnamed")
    layout.add(one, "same name")
    layout.add(
        layout.blob(b"{}", "application/vnd.oci.image.manifest.v1+json"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
        platform={"os": "unknown", "architecture": "unknown"},
    )
    store.import_image(layout.path, name="twice the same")
    layout.add(two, "same name")
    with pytest.raises(InvalidImage, match=f"{one['digest']}.*{two['digest']}"):
        store.import_image(layout.path, name="ambiguous")


def test_platforms(store: cowstore.Store, layout: Layout) -> None:
    """IO-05: the host's platform by default, another when asked for, also in an index of indexes."""
    arm = layout.image(TOP, config={"architecture": "arm64"})
    inner = {
        "schemaVersion": 2,
        "manifests": [
            {**layout.image(BASE), "platform": {"os": "linux", "architecture": "amd64"}},
            {**arm, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        ],
    }
    layout.add(layout.blob(json.dumps(inner).encode(), "application/vnd.oci.image.index.v1+json"), "app")
    store.import_image(layout.path, name="amd", platform="linux/amd64")
    store.import_image(layout.path, name="arm", platform="linux/arm64")
    assert "etc/b" in tree(store, "amd")
    assert "new" in tree(store, "arm")
    with pytest.raises(InvalidImage, match="linux/s390x"):
        store.import_image(layout.path, name="none", platform="linux/s390x")


def test_an_index_in_itself_for_ever(store: cowstore.Store, layout: Layout) -> None:
    inner = layout.blob(b'{"manifests": []}', "application/vnd.oci.image.index.v1+json")
    for _ in range(7):
        inner = layout.blob(json.dumps({"manifests": [inner]}).encode(), "application/vnd.oci.image.index.v1+json")
    layout.add(inner)
    with pytest.raises(InvalidImage, match="deep"):
        store.import_image(layout.path, name="app")


def test_foreign_layers(store: cowstore.Store, layout: Layout, tmp_path: Path) -> None:
    """IO-06: the message names the layer and its addresses; with the blob there it is taken, its type kept."""
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    image = layout.image(BASE, media_type=kind, layer_more={"urls": ["https://example.invalid/layer"]})
    layout.add(image)
    blob = layout.path_of({"digest": digest(gzip.compress(BASE, mtime=0))})
    store.import_image(layout.path, name="there")
    assert store.export_image("there", tmp_path / "out") == image["digest"]
    blob.unlink()
    with pytest.raises(InvalidImage, match=r"example\.invalid"):
        store.import_image(layout.path, name="not there")


def test_history(store: cowstore.Store, layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    """IO-07: empty layers in the history are no layers; a count that does not fit is a warning, and pairs nothing."""
    for number, (history, warns) in enumerate(
        [
            ([{}, {"empty_layer": True}, {}, {"empty_layer": True}], False),
            ([{}, {"empty_layer": True}], True),
            (None, False),
        ]
    ):
        other = Layout(layout.path.with_name(f"h{number}"))
        other.add(other.image(BASE, TOP, config={"history": history}))
        caplog.clear()
        store.import_image(other.path, name=f"app{number}")
        assert bool(caplog.records) == warns
        assert tree(store, f"app{number}") == MERGED
    wrong = Layout(layout.path.with_name("wrong"))
    wrong.add(wrong.image(BASE, TOP, diff_ids=[digest(BASE)] * 3))
    with pytest.raises(InvalidImage, match="2 layers, but 3 diff ids"):
        store.import_image(wrong.path, name="wrong")


@pytest.mark.parametrize("packed", [None, lambda data: gzip.compress(data, mtime=0)], ids=["plain", "gzip"])
@pytest.mark.parametrize("size", [0, 1024, 10240])
def test_empty_layers(store: cowstore.Store, layout: Layout, size: int, packed: object) -> None:
    """IO-09: all six forms of an empty layer are one, each with its own digest kept."""
    kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if packed else "")
    layout.add(layout.image(BASE, bytes(size), packed=packed, media_type=kind))  # type: ignore[arg-type]
    made = store.import_image(layout.path, name="app")
    assert made.labels["cowstore.layer.diff-id"] == digest(bytes(size))
    assert list(store.changes("app")) == []


def test_media_types_that_lie(store: cowstore.Store, layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    """IO-12: the bytes are believed, with a warning; an unknown type is an error that names it."""
    layout.add(layout.image(BASE, packed=None))
    store.import_image(layout.path, name="app")
    assert "gzip" in caplog.text
    assert "etc/a" in tree(store, "app")
    other = Layout(layout.path.with_name("other"))
    other.add(other.image(BASE, media_type="application/vnd.oci.image.layer.v1.tar+brotli"))
    with pytest.raises(InvalidImage, match="brotli"):
        store.import_image(other.path, name="other")


@pytest.mark.parametrize("part", ["layer", "config", "manifest", "size", "diff id", "longer"])
def test_what_is_damaged_is_not_listed(any_store: cowstore.Store, layout: Layout, part: str) -> None:
    """IO-13: a flipped byte in any part, a wrong size, a wrong diff id: an error, and nothing is listed."""
    wrong = [digest(BASE), digest(b"")] if part == "diff id" else None
    image = layout.image(BASE, TOP, diff_ids=wrong)
    manifest = json.loads(layout.path_of(image).read_bytes())
    damaged = {"layer": manifest["layers"][1], "config": manifest["config"], "manifest": image}.get(part)
    if damaged is not None:
        path = layout.path_of(damaged)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif part == "size":
        image = {**image, "size": int(str(image["size"])) - 1}
    elif part == "longer":
        path = layout.path_of(manifest["layers"][1])
        path.write_bytes(path.read_bytes() + bytes(512))
    layout.add(image)
    with pytest.raises((InvalidImage, InvalidLayer)):
        any_store.import_image(layout.path, name="app")
    assert keys(any_store) == set()
    assert any_store.check() == ()
    any_store.prepare("app")


@pytest.mark.parametrize(
    "wrong", ["md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../../etc/passwd", "sha256:" + "A" * 64, "", 7, None]
)
def test_digests_that_are_none(store: cowstore.Store, layout: Layout, wrong: object) -> None:
    """IO-13: md5 is refused, and a digest never becomes a path."""
    layout.add({**layout.image(BASE), "digest": wrong})
    with pytest.raises(InvalidImage, match="digest"):
        store.import_image(layout.path, name="app")


def test_sha512(store: cowstore.Store, layout: Layout) -> None:
    """IO-13: sha512 works."""
    import hashlib

    image = layout.image(BASE)
    data = layout.path_of(image).read_bytes()
    (layout.path / "blobs/sha512").mkdir()
    long = hashlib.sha512(data).hexdigest()
    (layout.path / "blobs/sha512" / long).write_bytes(data)
    layout.add({**image, "digest": f"sha512:{long}"})
    store.import_image(layout.path, name="app")


def test_unreferenced_blobs(store: cowstore.Store, layout: Layout, tmp_path: Path) -> None:
    """IO-15: junk is ignored; two images of one diff id, packed in two ways, are both complete."""
    layout.blob(b"junk", "x")
    layout.add(layout.image(BASE), "gz")
    other = Layout(layout.path.with_name("other"))
    other.add(other.image(BASE, packed=None, media_type="application/vnd.oci.image.layer.v1.tar"), "plain")
    first = store.import_image(layout.path, name="gz")
    second = store.import_image(other.path, name="plain")
    for snapshot in (first, second):
        found = store.export_image(snapshot.key, tmp_path / "both")
        assert found == snapshot.labels["cowstore.image.manifest"]
    for descriptor in json.loads((tmp_path / "both/index.json").read_text())["manifests"]:
        manifest = json.loads((tmp_path / "both/blobs/sha256" / descriptor["digest"].partition(":")[2]).read_text())
        for part in [manifest["config"], *manifest["layers"]]:
            blob = (tmp_path / "both/blobs/sha256" / part["digest"].partition(":")[2]).read_bytes()
            assert (digest(blob), len(blob)) == (part["digest"], part["size"])


def test_export_is_reproducible(store: cowstore.Store, tmp_path: Path) -> None:
    """IO-16: other process, hash seed, umask, time zone and locale: the same bytes."""
    store.import_tar(io.BytesIO(BASE), name="base")
    store.prepare("job", "base")
    with store.mounted("job") as root:
        for number in range(50):
            (root / f"f{number}").write_text("x")
            os.setxattr(root / f"f{number}", "user.z", b"1")
            os.setxattr(root / f"f{number}", "user.a", b"2")
    store.commit("app", "job")
    program = f"import cowstore; print(cowstore.open({store.root!r}).export_image('app', {{!r}}))"
    outputs = []
    for number, more in enumerate(
        [
            {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"},
            {"PYTHONHASHSEED": "2", "TZ": "Pacific/Apia", "LC_ALL": "C.UTF-8"},
        ]
    ):
        target = tmp_path / f"out{number}.tar"
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), "SOURCE_DATE_EPOCH": "0", **more}
        done = subprocess.run(
            [sys.executable, "-c", f"import os; os.umask({number * 63}); {program.format(str(target))}"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(target.read_bytes())
    assert outputs[0] == outputs[1]


def test_killed_exports_leave_a_whole_layout(store: cowstore.Store, layout: Layout, tmp_path: Path) -> None:
    """IO-18: whenever an export is killed, the images that were there stay whole, and half a blob is never believed."""
    layout.add(layout.image(BASE), "first")
    store.import_image(layout.path, name="first")
    store.import_tar(io.BytesIO(tar(("big", os.urandom(2_000_000)))), name="second")
    out = tmp_path / "out"
    store.export_image("first", out)
    for turn in range(12):
        pid = os.fork()
        if pid == 0:
            try:
                store.export_image("second", out)
            finally:
                os._exit(0)
        time.sleep(0.01 * turn)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        index = json.loads((out / "index.json").read_text())
        assert "first" in {one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]}
    for blob in (out / "blobs/sha256").iterdir():
        os.truncate(blob, blob.stat().st_size // 2)
    for key in ("first", "second"):
        store.export_image(key, out)
    for blob in (out / "blobs/sha256").iterdir():
        assert digest(blob.read_bytes()) == f"sha256:{blob.name}"


def test_two_exports_at_once(store: cowstore.Store, layout: Layout, tmp_path: Path) -> None:
    """IO-18: both are there afterwards."""
    for name in "abcdef":
        store.import_tar(io.BytesIO(tar((name, name))), name=name)
    children = []
    for name in "abcdef":
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                store.export_image(name, tmp_path / "out")
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 6
    index = json.loads((tmp_path / "out/index.json").read_text())
    assert {one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]} == set("abcdef")


def test_export_spares_other_directories(store: cowstore.Store, tmp_path: Path) -> None:
    store.import_tar(io.BytesIO(BASE), name="base")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(CowstoreError, match="neither empty"):
        store.export_image("base", tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["file"]


def test_parallel_imports_of_one_image(store: cowstore.Store, layout: Layout) -> None:
    """Two processes that import images with a common base share it, whoever is first."""
    layout.add(layout.image(tar(("base", os.urandom(3_000_000))), TOP), "app")
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                store.import_image(layout.path, name=f"app{number}")
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert {f"app{number}" for number in range(4)} < keys(store)
    assert len([snapshot for snapshot in store.walk() if snapshot.parent is None]) == 1
    assert store.check() == ()


def test_cowstore_run_on_images(layout: Layout, tmp_path: Path) -> None:
    """``--base`` takes a layout and an archive of one, unpacks each once, and runs with the image's own environment."""
    files = [(name, Path(name).read_bytes()) for name in _needed_by("/bin/echo")]
    base = tar(*files, mode=0o755)
    entrypoint = [os.path.realpath("/bin/echo"), "said"]
    config: dict[str, object] = {"config": {"Entrypoint": entrypoint, "Cmd": ["by the image"]}}
    layout.add(layout.image(base, config=config), "app")
    archive = layout.archive(tmp_path / "image.tar")
    run_it: list[str | Path] = [
        sys.executable,
        "-m",
        "cowstore.cli.run",
        "--store",
        tmp_path / "store",
        "--driver",
        "overlay",
        "--base",
    ]
    for source in (layout.path, archive, layout.path):
        done = subprocess.run(
            [*run_it, source],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert (done.returncode, done.stdout) == (0, "said by the image\n"), done.stderr
    with cowstore.open(tmp_path / "store") as store:
        assert len([snapshot for snapshot in store.walk() if snapshot.key.startswith("cowstore-run:")]) == 2
        store.destroy()


def _needed_by(program: str) -> list[str]:
    """List a program with the libraries it is linked to."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [os.path.realpath(program), *re.findall(r"(/\S+)", linked)]


# Real tools


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _scripted(store: cowstore.Store) -> None:
    """Make an image with everything a layer can hold."""
    store.prepare("job")
    with store.mounted("job") as root:
        (root / "etc").mkdir()
        (root / "etc/plain").write_text("x")
        (root / "etc/suid").write_text("x")
        os.chown(root / "etc/suid", 1000, 2000)
        (root / "etc/suid").chmod(0o4755)
        os.link(root / "etc/plain", root / "etc/linked")
        (root / "etc/symlink").symlink_to("/nonexistent/target")
        os.mkfifo(root / "fifo")
        os.mknod(root / "null", 0o020666, os.makedev(1, 3))
        os.setxattr(root / "etc/plain", "user.test", b"\0\xff\n")
        (root / "ключ").write_text("unicode")
        with (root / "sparse").open("wb") as file:
            file.truncate(1 << 20)
            file.seek(1 << 19)
            file.write(b"data")
        for path in sorted(root.rglob("*"), reverse=True):
            os.utime(path, ns=(1_000_000_000_123_456_789,) * 2, follow_symlinks=False)
    store.commit("base", "job")
    store.prepare("job", "base")
    with store.mounted("job") as root:
        (root / "etc/plain").write_text("changed")
        (root / "fifo").unlink()
        shutil.rmtree(root / "etc")
        (root / "etc").mkdir()
        (root / "etc/only").write_text("only")
    store.commit("app", "job")


def _described(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        target = os.readlink(path) if path.is_symlink() else ""
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if name.startswith(("user.", "security.capability"))
        }
        size = stat.st_size if path.is_file() else 0
        found[str(path.relative_to(root))] = (
            stat.st_mode, stat.st_uid, stat.st_gid, size, stat.st_rdev, stat.st_mtime_ns // 10**9, content, target,
            sorted(attributes.items()), stat.st_nlink if not path.is_dir() else 0,
        )  # fmt: skip
    return found


@pytest.mark.parametrize("key", ["base", "app"])
def test_umoci_and_skopeo_read_ours(any_store: cowstore.Store, tmp_path: Path, key: str) -> None:
    """skopeo copies our image to a docker-archive and back, and umoci unpacks it: the same tree."""
    _scripted(any_store)
    any_store.export_image(key, tmp_path / "ours")
    run("skopeo", "copy", f"oci:{tmp_path}/ours:{key}", f"docker-archive:{tmp_path}/docker.tar:{key}:1")
    run("skopeo", "copy", f"docker-archive:{tmp_path}/docker.tar", f"oci:{tmp_path}/back:{key}")
    any_store.view("look", key)
    with any_store.mounted("look") as root:
        wanted = _described(root)
    for layout in ("ours", "back"):
        run("umoci", "unpack", "--image", f"{tmp_path}/{layout}:{key}", tmp_path / f"unpacked-{layout}")
        assert _described(tmp_path / f"unpacked-{layout}/rootfs") == wanted
    any_store.import_image(tmp_path / "docker.tar", name="from docker")
    any_store.import_image(tmp_path / "back", name="from skopeo")
    for name in ("from docker", "from skopeo"):
        any_store.view(f"look at {name}", name)
        with any_store.mounted(f"look at {name}") as root:
            assert _described(root) == wanted


def test_we_read_umoci_and_skopeo(any_store: cowstore.Store, tmp_path: Path) -> None:
    """An image made by umoci, and its copy by skopeo, give the tree that umoci was given."""
    (tmp_path / "tree/usr/bin").mkdir(parents=True)
    (tmp_path / "tree/usr/bin/tool").write_text("#!/bin/sh\n")
    (tmp_path / "tree/usr/bin/tool").chmod(0o2755)
    os.link(tmp_path / "tree/usr/bin/tool", tmp_path / "tree/usr/bin/other")
    (tmp_path / "tree/link").symlink_to("usr/bin/tool")
    os.setxattr(tmp_path / "tree/usr/bin/tool", "user.k", b"\xfe")
    for path in sorted((tmp_path / "tree").rglob("*"), reverse=True):
        os.utime(path, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
    run("umoci", "init", "--layout", tmp_path / "made")
    run("umoci", "new", "--image", f"{tmp_path}/made:1")
    run("umoci", "insert", "--image", f"{tmp_path}/made:1", tmp_path / "tree", "/")
    run("umoci", "insert", "--image", f"{tmp_path}/made:1", "--whiteout", "/link")
    run("skopeo", "copy", f"oci:{tmp_path}/made:1", f"oci-archive:{tmp_path}/made.tar:1")
    wanted = {path: facts for path, facts in _described(tmp_path / "tree").items() if path != "link"}
    for source in ("made", "made.tar"):
        any_store.import_image(tmp_path / source, name=source)
        any_store.view(f"look at {source}", source)
        with any_store.mounted(f"look at {source}") as root:
            assert _described(root) == wanted
