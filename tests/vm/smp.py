"""What ``tox -e kernel-smp`` runs: on two processors under QEMU, the parallel tests, or one driver's whole suite.

``python -m tests.vm.smp [--driver NAME] [--timeout SECONDS] [ARGUMENTS of pytest]``.  The kernel is Debian's cloud
kernel, or the image ``COWSTORE_VM_KERNEL`` with the modules of ``COWSTORE_VM_MODULES``.  With ``--driver``, where that
kernel does not have it, the last line says "not proven" and the status is 3.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from tests.vm import __main__ as tier
from tests.vm.guest import LAUNCHER_FAILED
from tests.vm.proof import NOT_PROVEN

PARALLEL = ["-k", "threads or mounted_origin or verbs"]


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.smp", description=__doc__)
    parser.add_argument("--driver", metavar="NAME", help="run the whole conformance suite over this driver")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="stop the guest after this")
    parser.add_argument("--memory", default="2G", metavar="SIZE", help="memory of the guest (%(default)s)")
    return parser.parse_known_args(arguments)


def main(arguments: list[str]) -> int:
    options, rest = parse(arguments)
    words = [sys.executable, "-m"]
    if options.driver:
        words += ["tests.vm.proof", options.driver, *rest]
    else:
        words += ["pytest", "-p", "no:cacheprovider", *PARALLEL, *(rest or ["tests/vm"])]
    seconds = options.timeout or (4 * 3600 if options.driver else 900)
    # On a disk: a memory file system has no user.* attributes before Linux 6.6.
    scratch = "ext4" if options.driver else "tmpfs"
    launch = ["qemu", "--time", "--memory", options.memory, "--timeout", str(seconds), "--scratch", scratch]
    status = tier.main([*launch, "--", shlex.join(words)])
    if status == LAUNCHER_FAILED and options.driver and os.environ.get("COWSTORE_VM_KERNEL"):
        print("the given kernel could not be used; the lines above say why")
        status = NOT_PROVEN
    if status == NOT_PROVEN and options.driver:
        print(f"{options.driver}: not proven on this kernel", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
