"""Workloads that programs do in a snapshot: start, many at once, package install, checkout, build."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from cowstore.bench.installed import minimal_root
from cowstore.bench.synthetic import PER_DIRECTORY, content
from cowstore.bench.workloads import Plan, check, flush, workload
from cowstore.errors import CowstoreError

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
    "containers",
    "so many programs at once, each started on a fresh throw-away snapshot, to the end of the last and of its snapshot",
    "unsynced",
)
def containers(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    import cowstore

    base = ground.base("minimal", minimal_root)
    for number in plan.parallel:
        with ThreadPoolExecutor(number) as pool, watch.phase(f"true|containers={number}"):
            started = [pool.submit(cowstore.run, ground.store, parent=base, argv=["true"]) for _ in range(number)]
            done = [one.result() for one in started]
        check(all(one.status == 0 for one in done), "every true ended with 0")


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


@workload("git-checkout", "git checks out 300 files over others", "ends with syncfs(2)")
def git_checkout(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    _need("git")
    base, key = ground.base("repository", _repository), ground.key("checkout")
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        tree = str(root / "repository")
        with watch.phase("checkout|files=300"):
            _git(tree, "checkout", "-q", "second")
            flush(root)
        with open(f"{tree}/source-0.c", encoding="utf-8") as file:
            check(file.read().startswith("second"), "the other branch")
    ground.store.remove(key)
    del plan


@workload("build", "make compiles 20 sources of the parent and links them, one at a time", "ends with syncfs(2)")
def build(ground: Ground, watch: Stopwatch, plan: Plan) -> None:
    _need("make", "cc")
    base, key = ground.base("sources", _sources), ground.key("build")
    ground.store.prepare(key, base)
    with ground.store.mounted(key) as root:
        with watch.phase("make|files=20"):
            subprocess.run(["make", "-s", "-C", str(root)], check=True, timeout=300, env=_environment())
            flush(root)
        said = subprocess.run([root / "program"], capture_output=True, check=True, timeout=60).stdout
        check(said == b"190\n", "the program that was built adds up")
    ground.store.remove(key)
    del plan


def _sources(root: str) -> None:
    for number in range(20):
        with open(f"{root}/part{number}.c", "w", encoding="ascii") as file:
            file.write(f"int part{number}(void) {{ return {number}; }}\n")
    parts = [f"part{number}" for number in range(20)]
    with open(f"{root}/main.c", "w", encoding="ascii") as file:
        file.write("#include <stdio.h>\n" + "".join(f"int {part}(void);\n" for part in parts))
        file.write(f'int main(void) {{ printf("%d\\n", {"+".join(f"{part}()" for part in parts)}); return 0; }}\n')
    with open(f"{root}/Makefile", "w", encoding="ascii") as file:
        objects = " ".join(f"{part}.o" for part in ["main", *parts])
        file.write(f"program: {objects}\n\tcc -o program {objects}\n%.o: %.c\n\tcc -c -o $@ $<\n")


def _need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise CowstoreError(f"{' and '.join(missing)} not installed: apt-get install git make gcc libc6-dev")


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
        **_environment(), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "b", "GIT_AUTHOR_EMAIL": "b@b", "GIT_COMMITTER_NAME": "b", "GIT_COMMITTER_EMAIL": "b@b",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
    }  # fmt: skip
    subprocess.run(["git", "-C", tree, "-c", "gc.auto=0", *arguments], env=environment, check=True, timeout=300)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C"}
