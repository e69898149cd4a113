"""Writes cowstore/runtime/_filters.py: the default filter of system calls, compiled for every machine in the tables.

Run it after a change of the tables or the default; a test says when that is due.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cowstore.runtime import seccomp  # noqa: E402  # needs the line above
from cowstore.runtime.syscalls import ARCHITECTURES  # noqa: E402

HEAD = '''"""The default filter of system calls, compiled by scripts/seccomp_default.py; a start has no time for it."""

from __future__ import annotations

DEFAULT = {
'''


def main() -> None:
    """Write the module."""
    text = HEAD
    for machine in ARCHITECTURES:
        digits = seccomp.default(on=machine).hex()
        text += f'    "{machine}": (\n'
        text += "".join(f'        "{digits[at : at + 96]}"\n' for at in range(0, len(digits), 96))
        text += "    ),\n"
    text += '}\n"""By the machine\'s name; for the capabilities that are kept by default."""\n'
    (ROOT / "cowstore" / "runtime" / "_filters.py").write_text(text)


if __name__ == "__main__":
    main()
