"""Stores of every driver that works here, and small images made by hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import DriverUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DRIVERS = ("overlay", "copy", "btrfs")


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(*entries: tuple[str, str | bytes], mode: int = 0o644) -> bytes:
    """Make an archive of (name, content); a name that ends in "/" is a directory."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name.rstrip("/"))
            member.mtime = 1_000_000_000
            data = content.encode() if isinstance(content, str) else content
            if name.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size, member.mode = len(data), mode
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


class Layout:
    """An OCI layout made by hand, blob by blob, as right or wrong as a test wants it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests: list[dict[str, object]] = []

    def blob(self, data: bytes, media_type: str, **more: object) -> dict[str, object]:
        (self.path / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def image(
        self,
        *layers: bytes,
        packed: Callable[[bytes], bytes] | None = lambda data: gzip.compress(data, mtime=0),
        media_type: str = "application/vnd.oci.image.layer.v1.tar+gzip",
        diff_ids: list[str] | None = None,
        config: dict[str, object] | None = None,
        layer_more: dict[str, object] | None = None,
    ) -> dict[str, object]:
        """Add an image; returns its descriptor, which is not in the index yet."""
        blobs = [
            self.blob(layer if packed is None else packed(layer), media_type, **(layer_more or {})) for layer in layers
        ]
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest(layer) for layer in layers]},
            **(config or {}),
        }
        described = self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json")
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described,
            "layers": blobs,
        }
        return self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")

    def add(self, descriptor: dict[str, object], ref: str | None = None, **more: object) -> Layout:
        annotations = {} if ref is None else {"org.opencontainers.image.ref.name": ref}
        self.manifests.append({**descriptor, "annotations": annotations, **more})
        self.write()
        return self

    def write(self) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.manifests}))

    def path_of(self, descriptor: dict[str, object]) -> Path:
        return self.path / "blobs/sha256" / str(descriptor["digest"]).partition(":")[2]

    def archive(self, path: Path) -> Path:
        with tarfile.open(path, "w") as made:
            made.add(self.path, arcname=".")
        return path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture(params=DRIVERS)
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[cowstore.Store]:
    try:
        store = cowstore.open(tmp_path / "store", driver=request.param)
    except DriverUnavailable as error:
        pytest.skip(str(error))
    yield store
    store.destroy()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[cowstore.Store]:
    store = cowstore.open(tmp_path / "store", driver="overlay")
    yield store
    store.destroy()


def tree(store: cowstore.Store, key: str) -> dict[str, str]:
    """Return the files of a committed snapshot with their content."""
    store.view("look", key)
    try:
        with store.mounted("look") as root:
            return {
                str(path.relative_to(root)): path.read_text() if path.is_file() else "/"
                for path in sorted(root.rglob("*"))
            }
    finally:
        store.remove("look")
