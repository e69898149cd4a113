"""Whole images in: one committed snapshot for each layer, published together when all of them are whole."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from cowstore import _blobs, _faults
from cowstore._importing import import_directory, import_tar, opened, policy, refusal_names, writable_tree
from cowstore._rootless.verbs import in_namespace
from cowstore._rows import CREATING, labels_to_text
from cowstore.errors import AlreadyExists, InvalidImage
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._core import Core
    from cowstore._rows import Row
    from cowstore.layers.images import Image, Layer
    from cowstore.model import Snapshot

CHAIN = "cowstore.chain-id"
DIFF_ID = "cowstore.layer.diff-id"
DIGEST = "cowstore.layer.digest"
MEDIA_TYPE = "cowstore.layer.media-type"
CONFIG = "cowstore.image.config"
CONFIG_DIGEST = "cowstore.image.config-digest"
MANIFEST = "cowstore.image.manifest"
MANIFEST_TYPE = "cowstore.image.manifest-type"
"""Labels of imported layers; the last four of an image's top one."""

_WAIT_S = 600


@in_namespace()
def import_image(core: Core, source: object, name: str, platform: str | None) -> Snapshot:
    """Make the committed *name* from an OCI layout, a docker-archive or a plain root file system, told by content."""
    from cowstore.layers.container import Directory, open_archive
    from cowstore.layers.images import read_image

    core.own("import")
    what = str(getattr(source, "name", source))
    with core.doing("import", what), ExitStack() as stack:
        if isinstance(source, (str, bytes, os.PathLike)) and os.path.isdir(source):
            directory = Directory(os.fsdecode(source))
            stack.enter_context(directory)
            if not directory.has("index.json") and not directory.has("manifest.json"):
                return import_directory(core, os.fsdecode(source), name)
            return _install(core, read_image(directory, platform), name)
        file = stack.enter_context(opened(source))
        with refusal_names(what):
            archive, plain = open_archive(file, core.root)
        if archive is None:
            if plain is not file:
                stack.callback(plain.close)
            return import_tar(core, plain, name)
        stack.enter_context(archive)
        return _install(core, read_image(archive, platform), name)


def _install(core: Core, image: Image, name: str) -> Snapshot:
    """Unpack what the store does not have yet, and publish it all at once."""
    made: list[tuple[Row, dict[str, str]]] = []
    try:
        parent: str | Row | None = None
        for number, layer in enumerate(image.layers):
            top = number == len(image.layers) - 1
            parent = _find(core, image.chain[number]) or _begin(
                core, name if top else image.chain[number], parent, wait=not top
            )
            if isinstance(parent, str):
                _keep_bytes(core, layer)
            else:
                made.append((parent, {}))
                made[-1][1].update(_unpack(core, parent, layer, image.chain[number]))
        if not made or made[-1][0].key != name:
            # No layers at all, or all of them are here under other keys: an empty child of the top one.
            made.append((_empty(core, name, parent), {}))
        made[-1][1].update(_describe(core, image))
        _faults.point("store.image.filled")
        published = core.catalog.publish([(row, labels_to_text(labels)) for row, labels in made])
    except BaseException:
        for row, _ in reversed(made):
            core.undo(row.id)
        raise
    return published[-1]


def _find(core: Core, chain_id: str) -> str | None:
    """Return the key of the snapshot that is the layer of that chain id, its blob included where it was kept."""
    rows = core.catalog.labelled(CHAIN, chain_id)
    return rows[0].key if rows else None


def _begin(core: Core, key: str, parent: str | Row | None, *, wait: bool = True) -> Row | str:
    """Begin a layer; if somebody else is making it right now, wait until they have, and return its key."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            return core.catalog.begin(
                key,
                Kind.COMMITTED,
                parent,
                labels="{}",
                owner=core.own("import"),
                max_depth=core.driver.capabilities.max_depth,
            )
        except AlreadyExists:
            row = core.catalog.find(key)
            if not wait or (row is not None and row.state != CREATING) or time.monotonic() > deadline:
                if row is not None and wait and row.state == "ready":
                    return key
                raise
            time.sleep(0.05)


def _empty(core: Core, name: str, parent: str | Row | None) -> Row:
    """Make a committed snapshot in the making with nothing of its own."""
    row = _begin(core, name, parent, wait=False)
    assert not isinstance(row, str)
    try:
        core.create(row, None)
        core.driver.seal(row.id)
    except BaseException:
        core.undo(row.id)
        raise
    return row


def _unpack(core: Core, row: Row, layer: Layer, chain_id: str) -> dict[str, str]:
    """Unpack one layer into a row in the making, check it, and keep its bytes; returns its labels."""
    from cowstore.layers.compression import open_stream
    from cowstore.layers.extract import Whiteouts, extract
    from cowstore.layers.images import verified

    owners, devices = policy()
    core.create(row, None)
    with ExitStack() as stack:
        root_fd = stack.enter_context(writable_tree(core, row))
        blob = stack.enter_context(layer.open())
        labels = {CHAIN: chain_id, DIFF_ID: layer.diff_id}
        source: object = blob
        named: list[str] = []
        if layer.digest is not None and layer.size is not None:
            source = verified(blob, layer.digest, layer.size)
            if not _blobs.has(core, layer.digest):
                file, named = stack.enter_context(_blobs.draft(core))
                source = _Copying(source, file)
            labels |= {DIGEST: layer.digest, MEDIA_TYPE: layer.media_type}
        with open_stream(source) as stream:  # type: ignore[arg-type]
            _warn_of_lie(layer, stream.compression)
            extract(stream, root_fd, whiteouts=Whiteouts.APPLY, owners=owners, devices=devices)
        found = _diff_id(stream, layer)
        if found != layer.diff_id:
            raise InvalidImage(
                f"{layer.digest or 'a layer'}: unpacked it digests to {found}, and {layer.diff_id} was promised",
                part=layer.diff_id,
            )
        if layer.digest is not None:
            named.append(layer.digest)
    core.driver.seal(row.id)
    return labels


def _keep_bytes(core: Core, layer: Layer) -> None:
    """Check the bytes of a layer whose tree is here already, and keep them if it came from somewhere else."""
    from cowstore.layers.images import verified

    if layer.digest is None or layer.size is None:
        return
    with ExitStack() as stack:
        blob = verified(stack.enter_context(layer.open()), layer.digest, layer.size)
        if _blobs.has(core, layer.digest):
            while blob.read(1 << 20):
                pass
            return
        file, named = stack.enter_context(_blobs.draft(core))
        while chunk := blob.read(1 << 20):
            file.write(chunk)
        named.append(layer.digest)


def _diff_id(stream: object, layer: Layer) -> str:
    """Return the diff id by the algorithm the image uses."""
    if layer.diff_id.startswith("sha256:"):
        return str(stream.diff_id)  # type: ignore[attr-defined]
    import hashlib

    from cowstore.layers.compression import open_stream

    algorithm = layer.diff_id.partition(":")[0]
    digest = hashlib.new(algorithm)
    with layer.open() as blob, open_stream(blob) as again:
        while chunk := again.read(1 << 20):
            digest.update(chunk)
    return f"{algorithm}:{digest.hexdigest()}"


class _Copying:
    """A file that is copied while it is read."""

    def __init__(self, source: object, copy: object) -> None:
        self._source = source
        self._copy = copy

    def read(self, size: int = -1) -> bytes:
        """Read up to *size* bytes."""
        data: bytes = self._source.read(size)  # type: ignore[attr-defined]
        self._copy.write(data)  # type: ignore[attr-defined]
        return data


def _warn_of_lie(layer: Layer, found: str) -> None:
    """Say when a media type promises another compression than the bytes have; the bytes are believed."""
    if layer.compression is not None and layer.compression != found:
        from cowstore._log import logger

        logger(__name__).warning("layer %s is called %s, but its bytes are %s", layer.digest, layer.media_type, found)


def _describe(core: Core, image: Image) -> dict[str, str]:
    """Return the labels that make a snapshot an image's top, having kept what they name."""
    from cowstore.layers.oci import digest_of

    labels = {CONFIG: image.config.decode("utf-8", "replace"), CONFIG_DIGEST: digest_of(image.config)}
    if image.chain:
        labels[CHAIN] = image.chain[-1]
    _blobs.keep(core, labels[CONFIG_DIGEST], image.config)
    if image.manifest:
        labels[MANIFEST] = digest_of(image.manifest)
        labels[MANIFEST_TYPE] = image.manifest_type
        _blobs.keep(core, labels[MANIFEST], image.manifest)
    return labels
