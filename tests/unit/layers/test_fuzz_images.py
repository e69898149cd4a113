"""Hostile images by the hundred: one that can be read, or `InvalidImage` and `InvalidLayer`, and never anything else.

`COWSTORE_FUZZ_EXAMPLES` sets how many are tried.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cowstore.errors import InvalidImage, InvalidLayer
from cowstore.layers.container import Container, Directory, open_archive
from cowstore.layers.images import read_image, verified

EXAMPLES = int(os.environ.get("COWSTORE_FUZZ_EXAMPLES", "200"))

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="COWSTORE_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

LAYER = b"layer" * 100
WORDS = [
    b"null", b"[]", b"{}", b"-1", b"1e9", b'""', b'"../../../../etc/passwd"', b'"sha256:"', b"true", b"9" * 400,
    b"[" * 500,
    b'{"a":' * 300, b"\xff\xfe", b"\\ud800", b'"sha256:' + b"0" * 64 + b'"', b"application/vnd.oci.image.index.v1+json",
]  # fmt: skip


def parts() -> dict[str, bytes]:
    """Return the files of a small good layout, by name."""
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(LAYER).hexdigest()}"]}
    config = blob(json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs}).encode(), "config.v1+json")
    layers = [blob(gzip.compress(LAYER, mtime=0), "layer.v1.tar+gzip")]
    manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()
    inner = json.dumps({"manifests": [blob(manifest, "manifest.v1+json")]}).encode()
    files["index.json"] = json.dumps({"manifests": [blob(inner, "index.v1+json")]}).encode()
    return files


def look(container: Container) -> None:
    """Read all of an image."""
    image = read_image(container, None)
    for layer in image.layers:
        with layer.open() as file:
            source = file if layer.digest is None else verified(file, layer.digest, layer.size)
            while source.read(1 << 16):
                pass


@st.composite
def damage(draw: st.DrawFn) -> tuple[int, int, int, bytes]:
    """Say which file is damaged, where, how many bytes go, and what comes instead."""
    return (
        draw(st.integers(0, 10)),
        draw(st.integers(0, 2000)),
        draw(st.integers(0, 40)),
        draw(st.sampled_from(WORDS) | st.binary(max_size=20)),
    )


def apply(files: dict[str, bytes], damages: list[tuple[int, int, int, bytes]], *, name_anew: bool) -> dict[str, bytes]:
    """Damage files; with *name_anew* blobs are named by their new digest, wherever they are named."""
    for which, place, length, put in damages:
        name = sorted(files)[which % len(files)]
        data = files[name]
        begin = place % (len(data) + 1)
        damaged = data[:begin] + put + data[begin + length :]
        del files[name]
        if name_anew and name.startswith("blobs/"):
            old, new = name[-64:].encode(), hashlib.sha256(damaged).hexdigest().encode()
            size, now = b'"size": %d' % len(data), b'"size": %d' % len(damaged)
            files = {other: content.replace(old, new).replace(size, now) for other, content in files.items()}
            name = f"blobs/sha256/{new.decode()}"
        files[name] = damaged
    return files


@fuzz
@given(st.lists(damage(), max_size=4), st.booleans())
@example([], True)
def test_layouts(damages: list[tuple[int, int, int, bytes]], name_anew: bool) -> None:
    place = Path(tempfile.mkdtemp(prefix="cowstore-fuzz-"))
    try:
        for name, data in apply(parts(), damages, name_anew=name_anew).items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        with Directory(str(place)) as container:
            try:
                look(container)
            except (InvalidImage, InvalidLayer):
                assert damages
    finally:
        shutil.rmtree(place)


def docker_archive() -> bytes:
    config = json.dumps({"rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(LAYER).hexdigest()}"]}}).encode()
    name = hashlib.sha256(config).hexdigest()
    layer = f"{'a' * 64}/layer.tar"
    manifest = json.dumps([{"Config": f"{name}.json", "RepoTags": ["a:1"], "Layers": [layer]}]).encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for member, data in ((f"{name}.json", config), (layer, LAYER), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()[:8192]


@fuzz
@given(
    st.lists(
        st.tuples(st.integers(0, 8191), st.integers(0, 30), st.sampled_from(WORDS) | st.binary(max_size=8)), max_size=4
    )
)
@example([])
def test_archives(damages: list[tuple[int, int, bytes]]) -> None:
    data = docker_archive()
    for place, length, put in damages:
        data = data[:place] + put + data[place + length :]
    with tempfile.TemporaryDirectory(prefix="cowstore-fuzz-") as scratch, tempfile.TemporaryFile(dir=scratch) as file:
        file.write(data)
        file.flush()
        file.seek(0)
        try:
            archive, plain = open_archive(file, scratch)
            if plain is not file:
                plain.close()
            if archive is not None:
                with archive:
                    look(archive)
        except (InvalidImage, InvalidLayer):
            assert damages
