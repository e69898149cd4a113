"""Inside a guest: one driver's own tests and the conformance suite, or the word that this kernel does not have it.

``python -m tests.vm.proof DRIVER [ARGUMENTS of pytest]``; the status is pytest's, or 3 where nothing can be proven.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from tests.conformance import ground

NOT_PROVEN = 3
SUITE = ("cases", "model", "machine", "faults", "crowd")
SECONDS_PER_TEST = 2400
"""An emulated processor is ten to twenty times slower than those that the suite's own limit is for."""


def main(driver: str, arguments: list[str]) -> int:
    kernel = f"{os.uname().sysname} {os.uname().release}"
    with tempfile.TemporaryDirectory(prefix="probe-") as directory:
        reason = ground.verdict(driver, directory)
    if reason is not None:
        print(f"{kernel}: {reason}", flush=True)
        return NOT_PROVEN
    print(f"{driver}: the conformance suite on {kernel}", flush=True)
    suite = [f"tests/conformance/test_{name}.py" for name in SUITE]
    own = f"tests/vm/drivers/{driver}"
    if os.path.isdir(own):
        suite.insert(0, own)
    given = any(not argument.startswith("-") and ".py" in argument for argument in arguments)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--timeout={SECONDS_PER_TEST}", *arguments]
    status = subprocess.run(
        command if given else [*command, *suite], env={**os.environ, ground.CHOICE: driver}, check=False
    ).returncode
    # Less than the whole proves only itself.
    passed = "passed what was asked for" if arguments else "proven"
    print(f"{driver}: {passed if status == 0 else 'FAILED'} on {kernel}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
