"""Images as they are read: told apart, checked, and reduced to a config and a list of layers.

Everything is verified against the digests and sizes that name it; what only unpacking can tell (the diff ids) is left
to whoever unpacks.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from cowstore._log import logger
from cowstore.errors import InvalidImage
from cowstore.layers import oci

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, BinaryIO

    from cowstore.layers.container import Container

_NESTING_MAX = 4
_CANDIDATES_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of an image.

    :ivar diff_id: what its uncompressed bytes must digest to. :ivar digest: of the bytes as they are, and
    :ivar size: how many there are; None where the image does not say.
    :ivar open: gives a file to read them from.
    """

    diff_id: str
    digest: str | None
    size: int | None
    media_type: str
    compression: str | None
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image.

    :ivar config: its config, as it is. :ivar manifest: its manifest, as it is; empty for a docker-archive.
    :ivar layers: the lowest first.
    """

    config: bytes
    manifest: bytes
    manifest_type: str
    layers: tuple[Layer, ...]
    chain: tuple[str, ...] = field(default=())


def read_image(container: Container, platform: str | None) -> Image:
    """Read the one image for *platform* (by default this machine's) that a container holds.

    :raises InvalidImage: there is none, more than one, or it contradicts itself.
    """
    if container.has("index.json"):
        return _from_layout(container, platform)
    return _from_docker_archive(container, platform)


def verified(file: BinaryIO, digest: str, size: int | None) -> _Verifying:
    """Wrap a blob's file: reading it to the end checks its digest and size."""
    return _Verifying(file, digest, size)


class _Verifying:
    """A file whose end is only reached if its bytes are what they should be."""

    def __init__(self, file: BinaryIO, digest: str, size: int | None) -> None:
        self._file = file
        self._digest = digest
        self._size = size
        self._hash = hashlib.new(digest.partition(":")[0])
        self._count = 0

    def read(self, size: int = -1) -> bytes:
        """Read up to *size* bytes.

        :raises InvalidImage: at the end, or as soon as it is too long.
        """
        data = self._file.read(size)
        self._count += len(data)
        if self._size is not None and self._count > self._size:
            raise InvalidImage(f"{self._digest}: longer than the {self._size} bytes it should have", part=self._digest)
        self._hash.update(data)
        if not data and size:
            self._check()
        return data

    def _check(self) -> None:
        if self._size is not None and self._count != self._size:
            raise InvalidImage(
                f"{self._digest}: {self._count} bytes long, and {self._size} were promised", part=self._digest
            )
        found = f"{self._digest.partition(':')[0]}:{self._hash.hexdigest()}"
        if found != self._digest:
            raise InvalidImage(f"{self._digest}: damaged, its bytes digest to {found}", part=self._digest)


def _from_layout(container: Container, platform: str | None) -> Image:
    """Read an OCI image layout."""
    if container.has("oci-layout"):
        version = oci.parse(container.read("oci-layout"), "oci-layout").get("imageLayoutVersion")
        if version != oci.LAYOUT["imageLayoutVersion"]:
            raise InvalidImage(f"oci-layout: version {version!r}, and 1.0.0 is what is known", part="oci-layout")
    index = oci.parse(container.read("index.json"), "index.json")
    found: list[oci.Descriptor] = []
    _collect(container, index, "index.json", "", found, 0)
    chosen = _choose(container, found, platform)
    manifest_bytes = _blob(container, chosen)
    where = f"manifest {chosen.digest}"
    manifest = oci.parse(manifest_bytes, where)
    stated = manifest.get("mediaType", chosen.media_type)
    if stated not in oci.MANIFESTS or (chosen.media_type and chosen.media_type != stated):
        raise InvalidImage(f"{where}: called {chosen.media_type!r}, calls itself {stated!r}", part=where)
    config = _blob(container, oci.Descriptor.read(manifest.get("config"), f"{where}: config"))
    listed = manifest.get("layers")
    if not isinstance(listed, list):
        raise InvalidImage(f"{where}: no list of layers", part=where)
    descriptors = [oci.Descriptor.read(document, f"{where}: layer {number}") for number, document in enumerate(listed)]
    diff_ids = _diff_ids(config, len(descriptors), where)
    layers = tuple(
        _layer(container, descriptor, diff_id, f"{where}: layer {number}")
        for number, (descriptor, diff_id) in enumerate(zip(descriptors, diff_ids, strict=True))
    )
    return Image(
        config=config,
        manifest=manifest_bytes,
        manifest_type=stated,
        layers=layers,
        chain=tuple(oci.chain_ids(diff_ids)),
    )


def _collect(
    container: Container, index: Mapping[str, Any], where: str, ref: str, found: list[oci.Descriptor], depth: int
) -> None:
    """Gather the manifests that an index names, those of indexes in it too."""
    if depth > _NESTING_MAX:
        raise InvalidImage(f"{where}: indexes nested more than {_NESTING_MAX} deep", part=where)
    listed = index.get("manifests")
    if not isinstance(listed, list) or len(listed) > _CANDIDATES_MAX:
        raise InvalidImage(f"{where}: no list of at most {_CANDIDATES_MAX} manifests", part=where)
    for document in listed:
        descriptor = oci.Descriptor.read(document, where)
        name = descriptor.ref or ref
        if descriptor.media_type in oci.INDEXES:
            nested = oci.parse(_blob(container, descriptor), f"index {descriptor.digest}")
            _collect(container, nested, f"index {descriptor.digest}", name, found, depth + 1)
        elif descriptor.media_type in oci.MANIFESTS and not descriptor.is_attestation:
            if name != descriptor.ref:
                annotations = {**descriptor.annotations, oci.REF_NAME: name}
                descriptor = oci.Descriptor(
                    media_type=descriptor.media_type, digest=descriptor.digest, size=descriptor.size,
                    annotations=annotations, platform=descriptor.platform,
                )  # fmt: skip
            found.append(descriptor)


def _choose(container: Container, found: list[oci.Descriptor], platform: str | None) -> oci.Descriptor:
    """Return the one manifest that is meant.

    :raises InvalidImage: none, or several; the message lists them.
    """
    if not found:
        raise InvalidImage("index.json: it names no image", part="index.json")
    fitting = found
    if platform is not None or len({descriptor.digest for descriptor in found}) > 1:
        wanted = platform or oci.host_platform()
        fitting = [one for one in found if oci.matches(wanted, one.platform or _platform_inside(container, one))]
        if not fitting:
            listed = "; ".join(map(str, found[:10]))
            raise InvalidImage(f"index.json: no image for {wanted}; there are: {listed}", part="index.json")
    if len({descriptor.digest for descriptor in fitting}) > 1:
        listed = "; ".join(map(str, fitting[:10]))
        raise InvalidImage(f"index.json: which image is meant? there are: {listed}", part="index.json")
    return fitting[0]


def _platform_inside(container: Container, descriptor: oci.Descriptor) -> str:
    """Return the platform that an image's config names, where the index does not."""
    manifest = oci.parse(_blob(container, descriptor), f"manifest {descriptor.digest}")
    config = oci.Descriptor.read(manifest.get("config"), f"manifest {descriptor.digest}: config")
    return oci.platform_of(oci.parse(_blob(container, config), f"config {config.digest}"))


def _blob(container: Container, descriptor: oci.Descriptor) -> bytes:
    """Read a document by its descriptor, and check it."""
    if descriptor.size > oci.DOCUMENT_MAX:
        raise InvalidImage(
            f"{descriptor.digest}: {descriptor.size} bytes, too long for a document", part=descriptor.digest
        )
    with container.open(oci.blob_path(descriptor.digest)) as file:
        source = verified(file, descriptor.digest, descriptor.size)
        parts = []
        while part := source.read(1 << 20):
            parts.append(part)
    return b"".join(parts)


def _diff_ids(config: bytes, count: int, where: str) -> list[str]:
    """Return the diff ids that a config lists, one for each layer."""
    document = oci.parse(config, f"{where}: config")
    rootfs = document.get("rootfs")
    listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(listed, list):
        raise InvalidImage(f"{where}: its config lists no diff ids", part=where)
    diff_ids = [oci.check_digest(diff_id, f"{where}: diff id {number}") for number, diff_id in enumerate(listed)]
    if len(diff_ids) != count:
        raise InvalidImage(f"{where}: {count} layers, but {len(diff_ids)} diff ids in its config", part=where)
    history = document.get("history")
    if isinstance(history, list):
        real = sum(not (isinstance(entry, dict) and entry.get("empty_layer")) for entry in history)
        if real != count:
            # The history is for people; nothing is paired with it here.
            logger(__name__).warning("%s: its history speaks of %d layers, it has %d", where, real, count)
    return diff_ids


def _layer(container: Container, descriptor: oci.Descriptor, diff_id: str, where: str) -> Layer:
    compression = oci.layer_compression(descriptor.media_type, where)
    path = oci.blob_path(descriptor.digest)
    if not container.has(path):
        if oci.is_foreign(descriptor.media_type) or descriptor.urls:
            urls = ", ".join(descriptor.urls) or "no address"
            raise InvalidImage(
                f"{where}: {descriptor.digest} is not in the image, only named ({urls}); fetch it into {path} first",
                part=descriptor.digest,
            )
        raise InvalidImage(f"{where}: the image lacks the blob {descriptor.digest}", part=descriptor.digest)
    return Layer(
        diff_id=diff_id,
        digest=descriptor.digest,
        size=descriptor.size,
        media_type=descriptor.media_type,
        compression=compression,
        open=lambda: container.open(path),
    )


def _from_docker_archive(container: Container, platform: str | None) -> Image:
    """Read what ``docker save`` writes. Source: Docker image specification v1.2, "Combined Image JSON"."""
    import json

    where = "manifest.json"
    try:
        listed = json.loads(container.read(where))
    except (ValueError, RecursionError) as error:
        raise InvalidImage(f"{where}: not JSON: {error}", part=where) from error
    if not isinstance(listed, list) or not listed or not all(isinstance(entry, dict) for entry in listed):
        raise InvalidImage(f"{where}: it lists no image", part=where)
    if len(listed) > 1:
        tags = "; ".join(", ".join(map(str, entry.get("RepoTags") or ["<no tag>"])) for entry in listed[:10])
        raise InvalidImage(f"{where}: which image is meant? there are: {tags}", part=where)
    config_name, names = listed[0].get("Config"), listed[0].get("Layers")
    name = str((listed[0].get("RepoTags") or ["the image"])[0])
    if not isinstance(config_name, str) or not config_name:
        raise InvalidImage(f"{where}: {name} names no config", part=where)
    if not isinstance(names, list):
        raise InvalidImage(f"{where}: {name} has no list of layers", part=where)
    config = container.read(config_name)
    stem = os.path.basename(config_name).removesuffix(".json")
    if len(stem) == 64 and not stem.strip("0123456789abcdef") and oci.digest_of(config) != f"sha256:{stem}":
        raise InvalidImage(f"{config_name}: damaged, its bytes do not digest to its name", part=config_name)
    if platform is not None and not oci.matches(platform, oci.platform_of(oci.parse(config, config_name))):
        raise InvalidImage(f"{config_name}: not an image for {platform}", part=config_name)
    diff_ids = _diff_ids(config, len(names), name)
    layers = tuple(
        _docker_layer(container, path, diff_id, f"{where}: {name}: layer {number}")
        for number, (path, diff_id) in enumerate(zip(names, diff_ids, strict=True))
    )
    return Image(config=config, manifest=b"", manifest_type="", layers=layers, chain=tuple(oci.chain_ids(diff_ids)))


def _docker_layer(container: Container, path: object, diff_id: str, where: str) -> Layer:
    if not isinstance(path, str) or not path:
        raise InvalidImage(f"{where}: {path!r} is no file's name", part=where)
    if not container.has(path):
        raise InvalidImage(f"{where}: the archive lacks {path!r}", part=where)
    return Layer(
        diff_id=diff_id,
        digest=None,
        size=None,
        media_type="application/vnd.oci.image.layer.v1.tar",
        compression=None,
        open=lambda: container.open(path),
    )
