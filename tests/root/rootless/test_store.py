"""The store of an ordinary user: what needs a mount is done by a helper in a namespace of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from tests.tiers import need_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.root.rootless.conftest import User

LIFE = """
import io, json, os, sys, tempfile
import cowstore

def edit(root):
    with open(f"{root}/hello", "w") as file: file.write("hi")
    os.mkdir(f"{root}/closed", 0)
    with open(f"{root}/secret", "w") as file: file.write("x")
    os.chmod(f"{root}/secret", 0)

def changes(key): return [(str(change.kind), change.path) for change in store.changes(key)]

driver, where, archive = sys.argv[1:]
said = {}
with cowstore.open(f"{where}/store", driver=driver) as store:
    said["rootless"] = store.capabilities.rootless
    store.import_tar(archive, name="base")
    store.prepare("job", "base")
    number = store.stat("job").id
    edit(f"{where}/store/{driver}/{number}/fs")
    said["changes"] = changes("job")
    memory = io.BytesIO()
    info = store.export_layer("job", memory)
    said["skipped"] = dict(info.skipped)
    with open(f"{where}/layer", "w+b") as file:
        file.write(b"before")
        again = store.export_layer("job", file, compression="gzip")
        file.write(b"after")
        file.seek(0)
        content = file.read()
        said["file"] = content[:6] == b"before" and content[-5:] == b"after"
        said["place"] = len(content) == 11 + again.size_bytes
        file.seek(6)
        file.truncate(6 + again.size_bytes)
        store.prepare("from-file", "base")
        store.apply_layer("from-file", file)
    said["same"] = info.diff_id == again.diff_id
    memory.seek(0)
    store.prepare("from-memory", "base")
    applied = store.apply_layer("from-memory", memory)
    said["applied"] = changes("from-memory") == changes("from-file") == said["changes"]
    said["digest"] = applied.diff_id == info.diff_id
    store.commit("done", "from-memory")
    store.squash("flat", "done")
    said["flat"] = store.stat("flat").parent
    store.export_image("done", f"{where}/image")
    store.import_image(f"{where}/image", name="image")
    said["between"] = [(str(change.kind), change.path) for change in store.changes("image", "done")]
    said["check"] = [finding.text for finding in store.check()]
    store.prepare("bad", "base")
    try:
        store.apply_layer("bad", io.BytesIO(b"rubbish" * 1000))
    except cowstore.InvalidLayer as error:
        said["refused"] = str(error)
    said["gone"] = "bad" not in {snapshot.key for snapshot in store.walk()}
    try:
        with store.mounted("job"):
            pass
    except cowstore.Unsupported as error:
        said["mounted"] = str(error)
    other = {"overlay": "copy", "copy": "overlay"}[driver]
    with cowstore.open(f"{where}/other", driver=other) as target:
        said["migrated"] = list(store.migrate(target))
        said["twice"] = list(store.migrate(target))
        said["elsewhere"] = [finding.text for finding in target.check()]
        target.destroy()
    for key in ("image", "flat", "done", "from-file", "job", "base"):
        store.usage(key)
    store.destroy()
said["left"] = [os.path.exists(f"{where}/{name}") for name in ("store", "other")]
print(json.dumps(said))
"""


def test_a_whole_life(user: User, driver: str, archive: Path) -> None:
    """Every verb without a privilege; files that nobody may read, errors and files of every sort come across."""
    said = json.loads(user.script(LIFE, driver, user.home, archive))
    assert said["rootless"]
    assert said["changes"] == [["added", "closed"], ["added", "hello"], ["added", "secret"]]
    assert said["same"]
    assert said["applied"]
    assert said["digest"]
    assert said["file"]
    assert said["place"]
    assert said["flat"] is None
    assert said["between"] == []
    assert said["check"] == said["elsewhere"] == []
    assert "not a tar archive" in said["refused"]
    assert said["gone"]
    assert "cowstore unshare -- PROGRAM" in said["mounted"]
    assert {"base", "job", "done", "flat", "image"} <= set(said["migrated"])
    assert said["twice"] == []
    assert said["left"] == [False, False]


REFUSING = """
import sys
import cowstore
import cowstore._rootless.calls as calls

def refuse(job):
    raise cowstore.Unsupported("no namespaces", feature="user namespaces")

calls.call = refuse
try:
    cowstore.open(sys.argv[2] + "/refused", driver="overlay")
except cowstore.DriverUnavailable as error:
    assert "no namespaces" in str(error), error
else:
    raise AssertionError("overlay without a namespace")
"""


def test_without_namespaces(user: User) -> None:
    """Copies need no mount: where a user gets no namespace, that driver does without; overlay says why it cannot."""
    # What its owner may not read stays unread: only the root of a namespace gets past that.
    life = LIFE.replace('os.chmod(f"{root}/secret", 0)', "pass").replace('closed", 0)', 'closed")')
    life = life.replace("driver=other) as", 'driver="copy") as').replace("driver, where", "_, where")
    life = life.replace("said = {}", "said, driver = {}, 'copy'")
    small = user.home / "small.tar"
    with tarfile.open(small, "w") as tar:
        entry = tarfile.TarInfo("etc")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    small.chmod(0o644)
    said = json.loads(user.script(REFUSING + life, "overlay", user.home, small))
    assert said["changes"] == [["added", "closed"], ["added", "hello"], ["added", "secret"]]
    assert said["applied"]
    assert said["check"] == []
    assert said["left"] == [False, False]


def test_devices_and_fifos(user: User, driver: str, archive: Path) -> None:
    """TA-32: fifos are made and devices left out, counted and said; the same by every driver."""
    done = user.run(user.python, "-m", "cowstore.cli.main", "--driver", driver, "import", archive, "--name", "base")
    assert done.returncode == 0
    assert "2 devices" in done.stderr
    found = user.cowstore("diff", "base", "--output", "layer") or user("tar", "tf", "layer")
    assert "fifo" in found.split()
    assert "null" not in found.split()


HIDDEN_WORK = """
import os, sys
import cowstore
with cowstore.open(sys.argv[1]) as store:
    store.prepare("base")
    with store.mounted("base") as root:
        os.makedirs(root / "d/inner"); (root / "file").write_text("x")
    store.commit("layer", "base")
    store.prepare("job", "layer")
    with store.mounted("job") as root:
        (root / "d/inner").rmdir(); (root / "d").rmdir(); (root / "d").mkdir(); (root / "d/new").write_text("y")
        (root / "file").rename(root / "moved")
        try:
            (root / "d").rename(root / "e")
        except OSError as error:
            raise AssertionError("a directory of its own cannot be renamed") from error
    print([(str(change.kind), change.path) for change in store.changes("job")])
"""


def test_remake_and_rename(user: User) -> None:
    """OV-14: the marks are where a user may write them, so that mkdir and rename work as they do for root."""
    found = user.script(HIDDEN_WORK, user.home / "store", unshared=True)
    assert found.strip() == str(
        [("deleted", "d"), ("added", "e"), ("added", "e/new"), ("deleted", "file"), ("added", "moved")]
    )


def test_a_work_directory_without_rights(user: User) -> None:
    """OV-27: the kernel makes the scratch directory with mode 000, and its owner removes the snapshot all the same."""
    user.script(HIDDEN_WORK, user.home / "store", unshared=True)
    works = list((user.home / "store/overlay").glob("*/work/work"))
    assert works
    for work in works:
        work.chmod(0)
    user.cowstore("--store", user.home / "store", "rm", "job")
    user.cowstore("--store", user.home / "store", "destroy")
    assert not (user.home / "store").exists()


def test_a_directory_nobody_passes(user: User) -> None:
    """ST-19: the error names the very directory, whose it is, and who was refused; also as the root of a namespace."""
    closed = user.home / "closed"
    (closed / "below").mkdir(parents=True)
    os.chown(closed, 1000, 1000)
    closed.chmod(0o700)
    words = ("--store", closed / "below/store", "ls")
    for command in ([], ["unshare", "--", user.python, "-m", "cowstore.cli.main"]):
        done = user.run(user.python, "-m", "cowstore.cli.main", *command, *words)
        assert done.returncode == 1
        assert f"the directory {closed} (mode 0700" in done.stderr
        assert "65534" in done.stderr
        assert "Traceback" not in done.stderr


def test_owners_with_ranges(user: User, driver: str, archive: Path) -> None:
    """With ids of his own granted, a user keeps the owners of what he imports, and can remove it again."""
    user.ranges = True
    user.cowstore("--driver", driver, "import", archive, "--name", "base")
    store = user.home / "data/cowstore"
    number = json.loads(user.cowstore("--json", "ls"))[0]["id"]
    found = (store / driver / str(number) / "fs/home/file").stat()
    assert (found.st_uid, found.st_gid) == (100999, 100999)
    user.cowstore("prepare", "job", "base")
    assert user.cowstore("changes", "job") == ""
    user.cowstore("diff", "base", "--output", user.home / "layer")
    with tarfile.open(user.home / "layer") as tar:
        assert tar.getmember("home/file").uid == 1000
    user.cowstore("commit", "done", "job")
    user.cowstore("rm", "done", "base")
    assert user.cowstore("--json", "check").strip() == "[]"
    user.cowstore("destroy")
    assert not store.exists()


WAITING = """
import os, sys
import cowstore

class Slow:
    name = "slow"
    def read(self, size=-1):
        print("reading", flush=True)
        sys.stdin.read()
        return b""

with cowstore.open(sys.argv[1]) as store:
    store.prepare("job")
    store.apply_layer("job", Slow())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_helper_ends_with_its_caller(user: User, number: signal.Signals) -> None:
    """Killed or interrupted: no helper stays, and nothing half-made is seen."""
    store = user.home / "store"
    command = user.command(user.python, "-c", WAITING, store)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=user.environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        assert _helpers(user)
        process.send_signal(number)
    deadline = time.monotonic() + 5
    while _helpers(user) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _helpers(user) == []
    assert json.loads(user.cowstore("--store", store, "--json", "check")) == []


def _helpers(user: User) -> list[str]:
    """List the helpers of this test's user, told by the store's path being theirs alone."""
    found = []
    for pid in os.listdir("/proc"):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            home = os.fsencode(user.home)
            with open(f"/proc/{pid}/environ", "rb") as file:
                if any(word.endswith(b"_rootless/helper.py") for word in words) and b"HOME=" + home in file.read():
                    found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("helper", ["pasta", "slirp4netns"])
@pytest.mark.parametrize("ranges", [False, True])
def test_a_network_of_his_own(user: User, helper: str, ranges: bool) -> None:
    """Through either helper, with one id and with ranges of them."""
    from tests.root.runtime.test_network import CLIENT, echo, own_address

    need_program(helper)
    user.ranges = ranges
    other = {"pasta": "slirp4netns", "slirp4netns": "pasta"}[helper]
    empty = user.home / "empty"
    empty.touch()
    script = f'for d in /usr/local/bin /usr/bin; do test -e $d/{other} && mount --bind "$0" $d/{other}; done; exec "$@"'
    hiding = ["unshare", "--mount", "sh", "-c", script, str(empty)]
    address = own_address()
    with echo(address) as port:
        words = [user.python, "-m", "cowstore.cli.run", "--network", "user", "--", "python3", "-c", CLIENT]
        done = subprocess.run(
            [*hiding, *user.command(*words, address, str(port))],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=user.home,
            env=user.environment,
        )
    # What hides the other one is a mount below /usr, of which the command has something to say.
    assert (done.returncode, done.stdout) == (0, "from inside 10.0.2.100\n"), done.stderr
