"""Memory stays bounded, whatever the archive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, sys
sys.path.append(sys.argv[2])
from cowstore.layers.extract import Owners, extract
from cowstore.layers.compression import open_stream
from tests.unit.layers.archives import END, block, directory, file, long_name, pax

def parts():
    for number in range(8000):
        if number % 8 == 0:
            yield directory(b"some/long/path/d%d" % number)
        yield file(b"some/long/path/d%d/a-file-%d" % (number - number % 8, number))
    yield pax([(b"SCHILY.xattr.user.k%d" % number, b"v" * 60) for number in range(3)]) + file(b"x")
    yield pax([(b"comment", b"c" * 1000)] * 900) + file(b"y")
    yield pax([(b"a", b"")] * 130_000) + file(b"z")
    yield block(b"big", size=48 << 20)
    for _ in range(48):
        yield bytes(1 << 20)
    yield END

class Pieces:
    def __init__(self):
        self.parts, self.rest = parts(), b""
    def read(self, size):
        if not self.rest:
            self.rest = next(self.parts, b"")
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece

fd = os.open(sys.argv[1], os.O_RDONLY)
with open_stream(Pieces()) as stream:
    extract(stream, fd, owners=Owners.CALLER)
# ru_maxrss would be that of the process which forked this one, where that was larger.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def test_below_64_mib(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path, ROOT], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 64 * 1024
    assert (tmp_path / "big").stat().st_size == 48 << 20
