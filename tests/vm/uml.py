"""User-mode Linux: a kernel as an ordinary program; one processor, native speed, boots in under two seconds.

It is Debian's, or the program that ``COWSTORE_VM_UML`` names.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.vm import packages
from tests.vm.guest import HERE, Guest, run, shared_directory

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = "/usr/bin/linux.uml"
MODULES = "/usr/lib/uml/modules"


def _shim(directory: Path) -> dict[str, str]:
    """Compile umlfp.c, without which every kernel call is dearer, and a processor with AMX cannot be used."""
    packages.ensure(packages.UML_SHIM)
    library = directory / "umlfp.so"
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "umlfp.c"), "-ldl"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
    return {"LD_PRELOAD": str(library)}


def launch(guest: Guest) -> int:
    """Boot, run the command, return its exit status; raises BootFailure and packages.Missing."""
    # Its processes take turns: where each turn is another processor's, a kernel call takes two to three times as long.
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})
    given = os.environ.get("COWSTORE_VM_UML")
    packages.ensure(packages.COMMON if given else packages.COMMON | packages.UML)
    # One that was given has everything built in, as far as anybody can tell.
    modules = "" if given else f"{MODULES}/{max(os.listdir(MODULES))}"
    with shared_directory(guest, "uml", modules) as directory:
        argv = [
            given or KERNEL, f"mem={guest.memory_bytes >> 20}M",
            "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
            f"init={directory}/guest-init", "con=null", "con0=null,fd:1", "quiet", "loglevel=3",
            "umid=guest", f"uml_dir={directory}", f"harness={directory}", "share=hostfs", f"udevd={int(guest.udevd)}",
            f"scratch={guest.scratch}",
            # JFS takes megabytes at boot, a mapping for each page; every new process copies the table of these.
            "jfs.nTxBlock=16", "jfs.nTxLock=256",
        ]  # fmt: skip
        argv += [f"ubd{index}={directory}/memory/disk{index}" for index in range(len(guest.disks))]
        return run(guest, directory, argv, extra_environment=_shim(directory))
