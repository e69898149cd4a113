"""The documents of an OCI image: descriptors, indexes, manifests and configs, read with suspicion.

Source: OCI image specification: descriptor.md, image-index.md, manifest.md, config.md, image-layout.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field

from cowstore.errors import InvalidImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LAYOUT = {"imageLayoutVersion": "1.0.0"}
"""What the file ``oci-layout`` says."""

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
_DOCKER = "application/vnd.docker."
INDEXES = frozenset({INDEX, f"{_DOCKER}distribution.manifest.list.v2+json"})
MANIFESTS = frozenset({MANIFEST, f"{_DOCKER}distribution.manifest.v2+json"})
REF_NAME = "org.opencontainers.image.ref.name"
"""Annotation that names an image in a layout."""

_LAYER_TYPES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    f"{_DOCKER}image.rootfs.diff.tar",
    f"{_DOCKER}image.rootfs.foreign.diff.tar",
)
_SUFFIXES = {"": "none", "+gzip": "gzip", ".gzip": "gzip", "+zstd": "zstd", ".zstd": "zstd"}
DOCUMENT_MAX = 16 << 20
"""Bytes of JSON that are read at most."""

_DIGEST_HEX = {"sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST = re.compile(r"([a-z0-9]+(?:[.+_-][a-z0-9]+)*):([A-Za-z0-9=_-]+)").fullmatch
_MACHINES = {
    "x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm/v7", "armv6l": "arm/v6",
}  # fmt: skip
_VARIANTS = {"arm64": "v8", "arm": "v7"}


def check_digest(digest: object, where: str) -> str:
    """Return *digest* if it is one of an algorithm that cowstore checks, written as the specification says.

    :param where: what names it, for the message.
    :raises InvalidImage: it is not; a digest becomes part of a path, so nothing else may pass.
    """
    match = _DIGEST(digest) if isinstance(digest, str) else None
    if match is None:
        raise InvalidImage(f"{where}: {digest!r} is not a digest", part=where)
    algorithm, encoded = match.groups()
    length = _DIGEST_HEX.get(algorithm)
    if length is None:
        known = ", ".join(sorted(_DIGEST_HEX))
        raise InvalidImage(f"{where}: the digest {digest!r} is of an algorithm other than {known}", part=where)
    if len(encoded) != length or encoded.strip("0123456789abcdef"):
        raise InvalidImage(f"{where}: {digest!r} is not a digest of {length} lower-case hexadecimal digits", part=where)
    return str(digest)


def digest_of(data: bytes, like: str = "sha256:") -> str:
    """Return the digest of *data* by the algorithm of *like*."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def chain_ids(diff_ids: list[str]) -> list[str]:
    """Return the chain id of each layer. Source: config.md, "Layer ChainID"."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def blob_path(digest: str) -> str:
    """Return where a blob lies in a layout."""
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded}"


def parse(data: bytes, where: str) -> dict[str, Any]:
    """Read a JSON object.

    :raises InvalidImage: it is none.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidImage(f"{where}: not JSON: {error}", part=where) from error
    if not isinstance(document, dict):
        raise InvalidImage(f"{where}: a JSON {type(document).__name__}, not an object", part=where)
    return document


def encode(document: Mapping[str, Any]) -> bytes:
    """Write a document so that equal ones are equal bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A reference to a blob.

    :ivar size: of the blob in bytes. :ivar platform: ``os/architecture[/variant]``, empty where it is not said.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()
    platform: str = ""

    @classmethod
    def read(cls, document: object, where: str) -> Descriptor:
        """Read one from JSON.

        :raises InvalidImage: something of it is missing or wrong.
        """
        if not isinstance(document, dict):
            raise InvalidImage(f"{where}: not a descriptor: {document!r}", part=where)
        digest = check_digest(document.get("digest"), where)
        size = document.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidImage(f"{where}: the size of {digest} is {size!r}, not a number of bytes", part=where)
        annotations = document.get("annotations") or {}
        urls = document.get("urls") or []
        if not isinstance(annotations, dict) or not isinstance(urls, list):
            raise InvalidImage(f"{where}: the annotations or urls of {digest} are of the wrong sort", part=where)
        return cls(
            media_type=str(document.get("mediaType", "")),
            digest=digest,
            size=size,
            annotations={str(name): str(value) for name, value in annotations.items()},
            urls=tuple(map(str, urls)),
            platform=platform_of(document.get("platform")),
        )

    @property
    def ref(self) -> str:
        """The name it goes by in its layout, or an empty string."""
        return self.annotations.get(REF_NAME, "")

    @property
    def is_attestation(self) -> bool:
        """Whether it only says something about another image."""
        return self.platform == "unknown/unknown" or "vnd.docker.reference.type" in self.annotations

    def __str__(self) -> str:
        return " ".join(part for part in (self.ref, self.platform, self.digest) if part)


def platform_of(document: object) -> str:
    """Return the platform that a descriptor or a config names, or an empty string."""
    if not isinstance(document, dict):
        return ""
    system, architecture = str(document.get("os") or ""), str(document.get("architecture") or "")
    variant = str(document.get("variant") or "")
    if not system or not architecture:
        return ""
    return "/".join(part for part in (system, architecture, variant) if part)


def host_platform() -> str:
    """Return the platform of this machine."""
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


def matches(wanted: str, offered: str) -> bool:
    """Tell whether an image for *offered* is one for *wanted*; a variant left out stands for the usual one."""
    return _full(wanted) == _full(offered)


def _full(platform: str) -> tuple[str, str, str]:
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    return system, architecture, variant or _VARIANTS.get(architecture, "")


def layer_compression(media_type: str, where: str) -> str:
    """Return the compression that a layer's media type promises.

    :raises InvalidImage: a type that is no layer cowstore can read.
    """
    for known in _LAYER_TYPES:
        if media_type.startswith(known) and media_type[len(known) :] in _SUFFIXES:
            return _SUFFIXES[media_type[len(known) :]]
    raise InvalidImage(f"{where}: cannot read a layer of the type {media_type!r}", part=where)


def is_foreign(media_type: str) -> bool:
    """Tell whether a layer's bytes may lie elsewhere by design."""
    return ".nondistributable." in media_type or ".foreign." in media_type
