"""The example of the README, as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent.parent / "README.md"


def test_the_example_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    source = tmp_path / "debian"
    for name in ("bin", "etc", "lib", "lib64", "usr"):
        (source / name).mkdir(parents=True)
    _install("/bin/cat", source)
    (source / "etc/motd").write_text("before\n")
    script = found[1].replace('"/srv/store"', repr(str(tmp_path / "store"))).replace('"/srv/debian"', repr(str(source)))
    assert str(source) in script
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "modified etc\nmodified etc/motd\nhi\n\n"
    assert len(found[1].strip().splitlines()) <= 12


def _install(program: str, root: Path) -> None:
    """Copy a program and the libraries it is linked with."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in [program, *re.findall(r"(/\S+) \(0x", linked)]:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(path).read_bytes())
        target.chmod(0o755)
