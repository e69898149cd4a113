"""Whole images out: an OCI layout, as a directory or a tar archive, extended or made atomically."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
from contextlib import ExitStack, contextmanager, suppress

from cowstore import _blobs
from cowstore._images import CHAIN, CONFIG, DIFF_ID, DIGEST, MANIFEST, MANIFEST_TYPE, MEDIA_TYPE
from cowstore._layering import export_layer
from cowstore.errors import InvalidArgument, InvalidImage, WrongKind
from cowstore.layers import oci
from cowstore.layers.sink import MEDIA_TYPES
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

    from cowstore._core import Core
    from cowstore.model import Snapshot


def export_image(core: Core, key: str, path: str, *, ref: str | None, compression: str | None) -> str:
    """Write *key* with its ancestors as an image; returns the manifest's digest."""
    if compression not in MEDIA_TYPES:
        raise InvalidArgument(f"cannot compress with {compression!r}: use gzip, zstd or none", argument="compression")
    row = core.catalog.get(key)
    if row.kind != Kind.COMMITTED:
        raise WrongKind(f"cannot export {key!r} as an image: it is {row.kind}, not committed", key=key, kind=row.kind)
    name = key if ref is None else ref
    with core.doing("export", key):
        if path.endswith(".tar") or os.path.isfile(path):
            with tempfile.TemporaryDirectory(prefix=".cowstore-", dir=os.path.dirname(os.path.abspath(path))) as draft:
                digest = _into_directory(core, row.snapshot(), os.path.join(draft, "layout"), name, compression)
                _archive(os.path.join(draft, "layout"), path)
            return digest
        return _into_directory(core, row.snapshot(), path, name, compression)


def _into_directory(core: Core, snapshot: Snapshot, path: str, name: str, compression: str | None) -> str:
    """Write blobs first, each under its name only when whole, then the index that names them."""
    layout = _Layout(path)
    with layout:
        descriptor = _as_imported(core, snapshot, layout) or _composed(core, snapshot, layout, compression)
        layout.publish({**descriptor, "annotations": {oci.REF_NAME: name}})
    return str(descriptor["digest"])


def _as_imported(core: Core, snapshot: Snapshot, layout: _Layout) -> dict[str, Any] | None:
    """Write an image that came in whole just as it came; None if it did not, or not all of it is kept."""
    digest = snapshot.labels.get(MANIFEST)
    if digest is None or not _blobs.has(core, digest):
        return None
    with open(_blobs.path_of(core, digest), "rb") as file:
        data = file.read()
    manifest = oci.parse(data, f"manifest {digest}")
    parts = [manifest["config"], *manifest["layers"]]
    if not all(_blobs.has(core, part["digest"]) for part in parts):
        return None
    for part in parts:
        layout.add_file(_blobs.path_of(core, part["digest"]), part["digest"])
    layout.add(data, digest)
    described = {"mediaType": snapshot.labels.get(MANIFEST_TYPE, oci.MANIFEST), "digest": digest, "size": len(data)}
    config = oci.parse(snapshot.labels[CONFIG].encode(), "config")
    return {**described, **_platform(config)}


def _platform(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a descriptor says of the platform, for a config."""
    kept = {name: config[name] for name in ("architecture", "os", "variant") if config.get(name)}
    return {"platform": kept} if {"architecture", "os"} <= kept.keys() else {}


def _composed(core: Core, snapshot: Snapshot, layout: _Layout, compression: str | None) -> dict[str, Any]:
    """Write an image made of the chain's layers, with what the nearest imported config says."""
    chain = _chain(core, snapshot)
    layers = [_layer(core, one, layout, compression) for one in chain]
    config = _config(snapshot, chain, [diff_id for _, diff_id in layers])
    config_bytes = oci.encode(config)
    config_digest = oci.digest_of(config_bytes)
    layout.add(config_bytes, config_digest)
    manifest = oci.encode(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST,
            "config": {"mediaType": oci.CONFIG, "digest": config_digest, "size": len(config_bytes)},
            "layers": [descriptor for descriptor, _ in layers],
        }
    )
    digest = oci.digest_of(manifest)
    layout.add(manifest, digest)
    return {"mediaType": oci.MANIFEST, "digest": digest, "size": len(manifest), **_platform(config)}


def _chain(core: Core, snapshot: Snapshot) -> list[Snapshot]:
    """Return the snapshots that are layers of the image, the lowest first."""
    chain = []
    here: Snapshot | None = snapshot
    while here is not None:
        parent = None if here.parent is None else core.catalog.get(here.parent).snapshot()
        # An image whose top layer was here already is an empty child of it: a name, and no layer.
        alias = parent is not None and DIFF_ID not in here.labels and CHAIN in here.labels
        if not alias:
            chain.append(here)
        here = parent
    return chain[::-1]


def _layer(core: Core, snapshot: Snapshot, layout: _Layout, compression: str | None) -> tuple[dict[str, Any], str]:
    """Write one layer: the bytes it came in, where they are kept, else what differs from its parent."""
    digest = snapshot.labels.get(DIGEST)
    if digest is not None and _blobs.has(core, digest):
        size = layout.add_file(_blobs.path_of(core, digest), digest)
        return {"mediaType": snapshot.labels[MEDIA_TYPE], "digest": digest, "size": size}, snapshot.labels[DIFF_ID]
    with layout.draft() as (file, named):
        info = export_layer(core, snapshot.key, file, base=None, compression=compression)
        named.append(info.digest)
    descriptor = {"mediaType": info.media_type, "digest": info.digest, "size": info.size_bytes}
    return descriptor, info.diff_id


def _config(snapshot: Snapshot, chain: list[Snapshot], diff_ids: list[str]) -> dict[str, Any]:
    """Return the config: of the nearest ancestor that has one, with this image's layers."""
    config: dict[str, Any] = {}
    known = 0
    for number, one in enumerate([*chain, snapshot], start=1):
        if CONFIG in one.labels:
            config = oci.parse(one.labels[CONFIG].encode(), f"config of {one.key!r}")
            known = min(number, len(chain))
    system, _, rest = oci.host_platform().partition("/")
    architecture, _, variant = rest.partition("/")
    config = {"os": system, "architecture": architecture, **({"variant": variant} if variant else {}), **config}
    history = [entry for entry in config.get("history") or [] if isinstance(entry, dict)]
    real = sum(not entry.get("empty_layer") for entry in history)
    if real != known:
        history, known = [], 0
    created = _moment(snapshot)
    history += [{"created": created, "created_by": "cowstore"} for _ in diff_ids[known:]]
    return {**config, "created": created, "history": history, "rootfs": {"type": "layers", "diff_ids": diff_ids}}


def _moment(snapshot: Snapshot) -> str:
    """Return the time an image is said to be made: the snapshot's, unless SOURCE_DATE_EPOCH sets one."""
    import datetime as dt

    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    made = snapshot.created
    if epoch.isascii() and epoch.isdigit():
        made = min(made, dt.datetime.fromtimestamp(int(epoch), dt.UTC))
    return made.strftime("%Y-%m-%dT%H:%M:%SZ")


class _Layout:
    """An image layout on disk, locked while it is extended. A context manager."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        os.makedirs(self._path, exist_ok=True)
        with ExitStack() as stack:
            fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            entries = os.listdir(fd)
            if "oci-layout" not in entries and not all(
                name == "blobs" or name.startswith(".draft-") for name in entries
            ):
                raise InvalidArgument(
                    f"{self._path} is neither empty nor an image layout; name another directory", argument="path"
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @contextmanager
    def draft(self) -> Iterator[tuple[Any, list[str]]]:
        """Give a file for a blob and a list to put its digest in."""
        fd, name = tempfile.mkstemp(prefix=".draft-", dir=self._path)
        digest: list[str] = []
        try:
            with os.fdopen(fd, "wb") as file:
                yield file, digest
                file.flush()
                os.fsync(fd)
            os.chmod(name, 0o644)
            target = os.path.join(self._path, oci.blob_path(digest[0]))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(name, target)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    def _is_whole(self, digest: str) -> bool:
        """Tell whether a blob is there already, its bytes checked: a name alone proves nothing."""
        import hashlib

        try:
            with open(os.path.join(self._path, oci.blob_path(digest)), "rb") as file:
                algorithm = digest.partition(":")[0]
                return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}" == digest
        except FileNotFoundError:
            return False

    def add(self, data: bytes, digest: str) -> None:
        """Add a document."""
        if not self._is_whole(digest):
            with self.draft() as (file, named):
                file.write(data)
                named.append(digest)

    def add_file(self, source: str, digest: str) -> int:
        """Add a blob from a file; returns its size in bytes."""
        if not self._is_whole(digest):
            with open(source, "rb") as file, self.draft() as (copy, named):
                shutil.copyfileobj(file, copy, 1 << 20)
                named.append(digest)
        return os.stat(source).st_size

    def publish(self, descriptor: dict[str, Any]) -> None:
        """Name an image in the index, in the place of one of the same name."""
        self._replace("oci-layout", oci.encode(oci.LAYOUT))
        index: dict[str, Any] = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []}
        path = os.path.join(self._path, "index.json")
        if os.path.exists(path):
            with open(path, "rb") as file:
                index = oci.parse(file.read(), path)
            if not isinstance(index.get("manifests"), list):
                raise InvalidImage(f"{path}: no list of manifests; mend or remove it first", part=path)
        name = descriptor["annotations"][oci.REF_NAME]
        others = [one for one in index["manifests"] if (one.get("annotations") or {}).get(oci.REF_NAME) != name]
        self._replace("index.json", json.dumps({**index, "manifests": [*others, descriptor]}, sort_keys=True).encode())

    def _replace(self, name: str, data: bytes) -> None:
        """Put a file in place at once."""
        draft = os.path.join(self._path, f".{name}.draft")
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, os.path.join(self._path, name))


def _archive(layout: str, path: str) -> None:
    """Write a layout as a tar archive, the same bytes for the same layout, and put it in place at once."""
    from cowstore.layers.sink import Sink
    from cowstore.layers.writer import END, header, padding

    names = sorted(
        os.path.relpath(os.path.join(directory, name), layout)
        for directory, _, files in os.walk(layout)
        for name in files
    )
    directories = sorted({os.path.dirname(name) for name in names} | {"blobs"} - {""})
    draft = f"{layout}.tar"
    with open(draft, "wb") as file:
        with Sink(file) as sink:
            for name in filter(None, directories):
                sink.write(header(os.fsencode(name), stat.S_IFDIR | 0o755))
            for name in names:
                with open(os.path.join(layout, name), "rb") as part:
                    size = os.fstat(part.fileno()).st_size
                    sink.write(header(os.fsencode(name), stat.S_IFREG | 0o644, size=size))
                    while chunk := part.read(1 << 20):
                        sink.write(chunk)
                    sink.write(padding(size))
            sink.write(END)
        os.fsync(file.fileno())
    os.rename(draft, path)
