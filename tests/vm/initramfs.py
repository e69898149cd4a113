"""The smallest initial memory file system that reaches a shared root: busybox, the modules for it, one script."""

from __future__ import annotations

import gzip
import lzma
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_MODULES = {"virtiofs": ("virtio_pci", "virtiofs"), "9p": ("virtio_pci", "9pnet_virtio", "9p")}
BUSYBOX = "/bin/busybox"


def _name(path: str) -> str:
    return Path(path).name.split(".ko")[0].replace("-", "_")


class Modules:
    """The modules of one kernel, by the tables depmod leaves beside them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._needs: dict[str, tuple[str, list[str]]] = {}
        for line in (directory / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            self._needs[_name(path)] = (path, needs.split())
        self._builtin = {_name(line) for line in (directory / "modules.builtin").read_text().splitlines()}

    def known(self, name: str) -> bool:
        return name in self._needs or name in self._builtin

    def order(self, names: tuple[str, ...]) -> Iterator[str]:
        """Paths below the directory in which insmod can take them, dependencies first."""
        seen: set[str] = set()
        for name in names:
            if name not in self._needs:
                continue
            path, needs = self._needs[name]
            for one in [*reversed(needs), path]:
                if one not in seen:
                    seen.add(one)
                    yield one

    def content(self, path: str) -> bytes:
        """The module itself, decompressed, since insmod takes it from memory."""
        data = (self.directory / path).read_bytes()
        if path.endswith(".xz"):
            return lzma.decompress(data)
        if path.endswith(".zst"):
            return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
        return gzip.decompress(data) if path.endswith(".gz") else data


class BuiltIn(Modules):
    """Of a kernel without modules: whatever it has is there from the start, and cannot be told beforehand."""

    def __init__(self) -> None:
        self._needs = {}

    def known(self, name: str) -> bool:
        return True


def root_types(modules: Modules) -> list[str]:
    """How this kernel may be able to share the host's files, the quickest way first; LookupError when it cannot."""
    kinds = [kind for kind, needs in ROOT_MODULES.items() if modules.known(needs[-1])]
    if not kinds:
        where = modules.directory
        raise LookupError(f"the kernel of {where} has neither virtiofs nor 9p, to share this machine's files by")
    # Where the tables tell, one is enough.
    return kinds if isinstance(modules, BuiltIn) else kinds[:1]


def _member(name: str, mode: int, data: bytes, inode: int) -> bytes:
    """One member of a newc cpio archive."""
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4)


def build(target: Path, modules: Modules, kinds: list[str], init: bytes) -> None:
    """Write the archive to ``target``."""
    paths = list(modules.order(tuple(name for kind in kinds for name in ROOT_MODULES[kind])))
    members = [("init", 0o100755, init), ("bin", 0o040755, b""), ("dev", 0o040755, b""), ("modules", 0o040755, b"")]
    members += [("bin/busybox", 0o100755, Path(BUSYBOX).read_bytes())]
    members += [(f"modules/{Path(path).name}", 0o100644, modules.content(path)) for path in paths]
    members += [("modules.order", 0o100644, "".join(f"modules/{Path(path).name}\n" for path in paths).encode())]
    members += [("TRAILER!!!", 0, b"")]
    target.write_bytes(
        b"".join(_member(name, mode, data, inode) for inode, (name, mode, data) in enumerate(members, 1))
    )
