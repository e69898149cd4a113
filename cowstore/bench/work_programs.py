"""Workloads that programs do in a snapshot: start, package install, checkout and build."""

from __future__ import annotations

import os
import shutil
import subprocess

from cowstore.bench.installed import minimal_root
from cowstore.bench.synthetic import PER_DIRECTORY, content
from cowstore.bench.workloads import Plan, check, flush, workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.bench.grounds import Ground
    from cowstore.bench.timing import Stopwatch


@workload("start", "a program started on a fresh throw-away snapshot, to the end of it and of the snapshot", "unsynced")
def start(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    import cowstore

    base = ground.base("minimal", minimal_root)
    with watch.phase("true"):
        done = cowstore.run(ground.store, parent=base, argv=["true"])
    check(done.status == 0, f"true ended with {done.status}")
    del plan


@workload(
    "package-install",
    "200 files unpacked beside the old ones, each synced and renamed over them, in the manner of dpkg",
    "each file ends with fsync(2), the whole with syncfs(2)",
)
def package_install(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    base, key = ground.tree(plan.tree_files, plan.seed), ground.key("install")
    number = 200 if plan.full else 60
    body = content(1 << 14, plan.seed)
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        with watch.phase(f"install|files={number}"):
            for one in range(number):
                part = one % min(20, plan.tree_files // PER_DIRECTORY)
                directory = root / "usr" / f"part-{part}" / f"dir-{part}"
                new = directory / f"file-{one}.dpkg-new"
                with open(new, "wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(new, directory / f"file-{one}")
            flush(root)
        check((root / "usr/part-0/dir-0/file-0").stat().st_size == 1 << 14, "the new file")
    ground.store.remove(key)


@workload(
    "checkout-build",
    "git checks out 300 files over others, and a build writes one object for each and links them",
    "ends with syncfs(2)",
)
def checkout_build(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    if shutil.which("git") is None:
        return
    base, key = ground.base("repository", _repository), ground.key("build")
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        tree = str(root / "repository")
        with watch.phase("checkout|files=300"):
            _git(tree, "checkout", "-q", "second")
            flush(root)
        with open(f"{tree}/source-0.c", encoding="utf-8") as file:
            check(file.read().startswith("second"), "the other branch")
        with watch.phase("build|files=300"):
            for number in range(300):
                with open(f"{tree}/source-{number}.c", "rb") as source, open(f"{tree}/source-{number}.o", "wb") as made:
                    made.write(source.read() * 4)
            with open(f"{tree}/program", "wb") as linked:
                for number in range(300):
                    with open(f"{tree}/source-{number}.o", "rb") as made:
                        shutil.copyfileobj(made, linked)
            flush(root)
    ground.store.remove(key)
    del plan


def _repository(root: str) -> None:
    tree = os.path.join(root, "repository")
    os.mkdir(tree)
    _git(tree, "init", "-q", "-b", "first")
    for branch in ("first", "second"):
        for number in range(300):
            with open(f"{tree}/source-{number}.c", "w", encoding="utf-8") as file:
                file.write(f"{branch} {number}\n" * 80)
        if branch == "second":
            _git(tree, "checkout", "-q", "-b", "second")
        _git(tree, "add", ".")
        _git(tree, "commit", "-q", "-m", branch)
    _git(tree, "checkout", "-q", "first")


def _git(tree: str, *arguments: str) -> None:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "b", "GIT_AUTHOR_EMAIL": "b@b", "GIT_COMMITTER_NAME": "b", "GIT_COMMITTER_EMAIL": "b@b",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
    }  # fmt: skip
    subprocess.run(["git", "-C", tree, "-c", "gc.auto=0", *arguments], env=environment, check=True, timeout=300)
