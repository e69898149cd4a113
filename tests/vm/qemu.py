"""QEMU with Debian's cloud kernel, or one named by COWSTORE_VM_KERNEL: real processors, ten times slower without KVM.

``COWSTORE_VM_KERNEL=PATH`` names another kernel image, ``COWSTORE_VM_MODULES=DIR`` the directory of its modules (the
one that holds modules.dep; needed unless /lib/modules has one for an image named vmlinuz-RELEASE),
``COWSTORE_VM_ACCEL`` the accelerator (tcg).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from tests.vm import image, packages
from tests.vm.guest import HERE, Guest, run, shared_directory
from tests.vm.initramfs import BuiltIn, Modules, build, root_types

PROGRAM = "/usr/bin/qemu-system-x86_64"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


def _release_key(path: Path) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in path.name.replace("-", ".").split(".")]


def kernel() -> tuple[Path, Path | None]:
    """The kernel image and the directory of its modules, None where all seems built in."""
    given = os.environ.get("COWSTORE_VM_KERNEL")
    if given:
        path = Path(given).resolve()
        if not path.is_file():
            raise packages.Missing(f"COWSTORE_VM_KERNEL names {given}, where there is no kernel image")
        return path, image.modules(path, os.environ.get("COWSTORE_VM_MODULES"))
    images = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"), key=_release_key)
    if not images:
        packages.ensure({}, also=(packages.CLOUD_KERNEL,))
        images = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"), key=_release_key)
    return images[-1], image.modules(images[-1], os.environ.get("COWSTORE_VM_MODULES"))


def _share(kind: str, directory: Path, memory_mib: int) -> tuple[str, list[str]]:
    """The shell command that must run first, and QEMU's arguments, to share the host's root."""
    if kind == "9p":
        return "", [
            "-fsdev", "local,id=root,path=/,security_model=none,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
        ]  # fmt: skip
    socket = directory / "virtiofsd.sock"
    daemon = [VIRTIOFSD, f"--socket-path={socket}", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"]
    first = f"{shlex.join(daemon)} & while [ ! -S {socket} ]; do kill -0 $! || exit 1; sleep 0.02; done; "
    return first, [
        "-object", f"memory-backend-memfd,id=memory,size={memory_mib}M,share=on", "-numa", "node,memdev=memory",
        "-chardev", f"socket,id=share,path={socket}", "-device", "vhost-user-fs-pci,chardev=share,tag=root",
    ]  # fmt: skip


def _shares(kinds: list[str], directory: Path, memory_mib: int) -> tuple[str, list[str]]:
    """Offer the host's root in each of these ways; see :func:`_share`."""
    offers = [_share(kind, directory, memory_mib) for kind in kinds]
    return "".join(first for first, _ in offers), [word for _, words in offers for word in words]


def launch(guest: Guest) -> int:
    """Boot, run the command, return its exit status; raises BootFailure, packages.Missing and LookupError."""
    if os.geteuid() != 0:
        raise packages.Missing("the QEMU guest shares this machine's root, which takes root; the UML guest does not")
    packages.ensure(packages.COMMON | packages.QEMU)
    kernel_image, module_directory = kernel()
    modules = BuiltIn() if module_directory is None else Modules(module_directory)
    kinds = root_types(modules)
    memory_mib = guest.memory_bytes >> 20
    with shared_directory(guest, "qemu", str(module_directory or "")) as directory:
        build(directory / "initramfs", modules, kinds, (HERE / "initramfs-init").read_bytes())
        first, share = _shares(kinds, directory, memory_mib)
        line = (
            f"console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off roots={','.join(kinds)} "
            f"guestinit={directory}/guest-init "
            f"harness={directory} share=bind udevd={int(guest.udevd)} scratch={guest.scratch}"
        )
        argv = [
            PROGRAM, "-accel", os.environ.get("COWSTORE_VM_ACCEL", "tcg,thread=multi"), "-cpu", "max",
            "-smp", str(guest.processors), "-m", f"{memory_mib}M", "-M", "q35", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-serial", "stdio", "-append", line, *share,
            "-kernel", str(kernel_image), "-initrd", str(directory / "initramfs"),
        ]  # fmt: skip
        for index in range(len(guest.disks)):
            argv += [
                "-drive",
                f"id=disk{index},file={directory}/memory/disk{index},format=raw,if=none,cache=unsafe,discard=unmap",
            ]
            argv += ["-device", f"virtio-blk-pci,drive=disk{index}"]
        # virtiofsd insists on a lock file below /run; a checkout that lies there cannot be shown to this guest.
        return run(guest, directory, ["sh", "-c", f"{first}exec {shlex.join(argv)} < /dev/null"], covered=("/run",))
