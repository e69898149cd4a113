"""Peers that are container engines: containers-storage, containerd, podman, buildah."""

from __future__ import annotations

import itertools
import os
import subprocess
import time

from cowstore.bench import synthetic
from cowstore.bench.installed import process
from cowstore.bench.peers import LIMITS, peer, said
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from cowstore.bench.peers import Place, Steps

_PATIENCE_SECONDS = 20.0
_NAMESPACE = "cowstore-bench"


@peer("containers-storage", "storage only: it runs nothing", **{"containers-storage": "containers-storage"})
def containers_storage(place: Place, stack: ExitStack) -> Steps:
    """The storage library of podman, by its command."""
    home = place.directory("containers-storage")
    where = ["-g", f"{home}/graph", "-R", f"{home}/run", "-s", "overlay"]

    def storage(verb: str, *words: str) -> None:
        process(["containers-storage", verb, *where, *words], os.environ)

    storage("import-layer", "-i", "base", "-f", place.root_tar)
    stack.callback(_unmount, home)
    storage("import-layer", "-i", "tree", "-f", place.tree_tar)
    storage("create-layer", "-i", "edited", "tree")
    point = said("containers-storage", "mount", *where, "edited")
    synthetic.edit(point, place.recipe, 10)
    storage("unmount", "edited")
    numbers = itertools.count()

    def snapshot() -> None:
        storage("create-layer", "-i", "child", "base")
        storage("delete-layer", "child")

    def mount() -> None:
        storage("create-layer", "-i", "child", "base")
        storage("mount", "child")
        storage("unmount", "child")
        storage("delete-layer", "child")

    return {
        "snapshot": snapshot,
        "mount": mount,
        "apply": lambda: storage("import-layer", "-i", f"applied{next(numbers)}", "-f", place.tree_tar),
        "diff": lambda: storage("diff", "-u", "-f", f"{home}/diff.tar", "edited"),
    }


def _unmount(directory: str) -> None:
    """Unmount what an engine has left mounted below its directory."""
    from cowstore._linux.mount import UmountFlag, umount2
    from cowstore._linux.procfs import mountinfo

    top = os.fsencode(directory) + b"/"
    for entry in reversed(mountinfo()):
        if entry.mount_point.startswith(top):
            umount2(entry.mount_point, UmountFlag.NOFOLLOW | UmountFlag.DETACH)


def _engine(program: str, place: Place, stack: ExitStack) -> list[str]:
    """Return the start of the command lines of podman and buildah, with an image ``localhost/mini``."""
    home = place.directory(program[0])  # podman wants the path of its --runroot below 50 characters
    stack.callback(_unmount, home)
    line = [program, "--root", f"{home}/root", "--runroot", f"{home}/r", "--storage-driver", "overlay"]
    if program == "podman":
        line += ["--cgroup-manager", "cgroupfs", "--tmpdir", f"{home}/tmp"]
        said(*line, "import", place.root_tar, "localhost/mini")
    else:
        said(*line, "pull", f"oci:{place.image}:mini")
    return line


@peer("podman", podman="podman", crun="crun")
def podman(place: Place, stack: ExitStack) -> Steps:
    """An engine without a daemon; it writes a child's changes as the new layer of an image."""
    line = _engine("podman", place, stack)
    limits = [word for limit in LIMITS for word in ("--ulimit", limit)]

    def engine(*words: str) -> None:
        process([*line, *words], os.environ)

    def create(name: str, image: str) -> None:
        engine("create", "--name", name, *limits, "--network", "none", image, "true")

    def snapshot() -> None:
        create("child", "localhost/mini")
        engine("rm", "child")

    def mount() -> None:
        create("child", "localhost/mini")
        engine("mount", "child")
        engine("umount", "child")
        engine("rm", "child")

    said(*line, "import", place.tree_tar, "localhost/tree")
    create("edited", "localhost/tree")
    synthetic.edit(said(*line, "mount", "edited"), place.recipe, 10)
    engine("umount", "edited")
    numbers = itertools.count()
    return {
        "snapshot": snapshot,
        "mount": mount,
        "start": lambda: engine("run", "--rm", *limits, "--network", "none", "localhost/mini", "true"),
        "apply": lambda: engine("import", place.tree_tar, f"localhost/applied{next(numbers)}"),
        "diff": lambda: engine("commit", "-q", "edited", f"localhost/diff{next(numbers)}"),
    }


@peer("buildah", "measured for its snapshots: it applies, writes and starts by what podman does", buildah="buildah")
def buildah(place: Place, stack: ExitStack) -> Steps:
    """An image builder."""
    line = _engine("buildah", place, stack)
    image = said(*line, "images", "-q").split()[0]

    def snapshot() -> None:
        process([*line, "from", "--name", "child", image], os.environ)
        process([*line, "rm", "child"], os.environ)

    def mount() -> None:
        process([*line, "from", "--name", "child", image], os.environ)
        process([*line, "mount", "child"], os.environ)
        process([*line, "umount", "child"], os.environ)
        process([*line, "rm", "child"], os.environ)

    return {"snapshot": snapshot, "mount": mount}


_CONFIGURATION = """\
version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", \
"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{home}/socket"
"""


def _containerd(place: Place, stack: ExitStack) -> tuple[str, str]:
    """Start a containerd of our own with the image; returns its socket and the chain id of the image."""
    home = place.directory("containerd")
    stack.callback(_unmount, home)
    with open(f"{home}/config.toml", "w", encoding="utf-8") as file:
        file.write(_CONFIGURATION.format(home=home))
    with open(f"{home}/log", "wb") as log:
        daemon = subprocess.Popen(["containerd", "-c", f"{home}/config.toml"], stdout=log, stderr=log)
    stack.callback(_end, daemon)
    socket, deadline = f"{home}/socket", time.monotonic() + _PATIENCE_SECONDS
    client = ["ctr", "-a", socket, "-n", _NAMESPACE]
    while True:
        try:
            said(*client, "version")
            break
        except CowstoreError:
            if time.monotonic() > deadline or daemon.poll() is not None:
                raise
            time.sleep(0.1)
    return socket, _imported(client, place.image_tar)


def _imported(client: Sequence[str], image_tar: str) -> str:
    """Import an image, and return the chain id of what was unpacked."""
    before = _snapshots(client)
    said(*client, "images", "import", image_tar)
    (chain_id,) = _snapshots(client) - before
    return chain_id


def _snapshots(client: Sequence[str]) -> set[str]:
    return {line.split()[0] for line in said(*client, "snapshots", "ls").splitlines()} - {"KEY"}


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


@peer("containerd (ctr)", containerd="containerd", ctr="containerd", runc="runc")
def containerd(place: Place, stack: ExitStack) -> Steps:
    """A daemon, by its command."""
    socket, base = _containerd(place, stack)
    client = ["ctr", "-a", socket, "-n", _NAMESPACE]
    point = place.directory("point")

    def ctr(*words: str) -> None:
        process([*client, *words], os.environ)

    def snapshot() -> None:
        ctr("snapshots", "prepare", "child", base)
        ctr("snapshots", "rm", "child")

    def prepare_mounted(key: str, parent: str) -> None:
        # As its manual has it: the command prints mount(8)'s command line.
        process(["sh", "-c", f"$({' '.join(client)} snapshots prepare --target {point} {key} {parent})"], os.environ)

    def mount() -> None:
        prepare_mounted("child", base)
        process(["umount", point], os.environ)
        ctr("snapshots", "rm", "child")

    def apply() -> None:
        # What one namespace has unpacked is nothing to another.
        process(
            ["ctr", "-a", socket, "-n", f"{_NAMESPACE}-{next(numbers)}", "images", "import", place.tree_image_tar],
            os.environ,
        )

    prepare_mounted("edited", _imported(client, place.tree_image_tar))
    synthetic.edit(point, place.recipe, 10)
    process(["umount", point], os.environ)
    numbers = itertools.count()
    return {
        "snapshot": snapshot,
        "mount": mount,
        "apply": apply,
        "diff": lambda: ctr("snapshots", "diff", "edited"),
        "start": lambda: ctr("run", "--rm", "localhost/mini:latest", f"one-{next(numbers)}", "true"),
    }


@peer(
    "containerd (gRPC)",
    "one service of the daemon, for the cost of a message",
    containerd="containerd",
    ctr="containerd",
)
def containerd_grpc(place: Place, stack: ExitStack) -> Steps:
    """The same daemon, by messages from a small client over one connection.

    Source: containerd's api/services/snapshots/v1/snapshots.proto.
    """
    try:
        import grpc
    except ImportError as error:
        raise CowstoreError("the Python package grpcio is not installed: pip install grpcio") from error
    socket, base = _containerd(place, stack)
    channel = grpc.insecure_channel(f"unix://{socket}")
    stack.callback(channel.close)
    service = "/containerd.services.snapshots.v1.Snapshots/"
    metadata = (("containerd-namespace", _NAMESPACE),)

    def call(method: str) -> Callable[[bytes], bytes]:
        raw = channel.unary_unary(service + method, request_serializer=bytes, response_deserializer=bytes)

        def send(message: bytes) -> bytes:
            try:
                answer: bytes = raw(message, metadata=metadata, timeout=30)
            except grpc.RpcError as error:
                raise CowstoreError(f"containerd refused {method}: {error.details()}") from error
            return answer

        return send

    prepare, remove = call("Prepare"), call("Remove")
    # Without that label the daemon's garbage collector may be faster than we.
    root = _message(1, "containerd.io/gc.root") + _message(2, "2020-01-01T00:00:00Z")
    make = _message(1, "overlayfs") + _message(2, "child") + _message(3, base) + _message(4, root.decode("ascii"))
    end = _message(1, "overlayfs") + _message(2, "child")

    def snapshot() -> None:
        prepare(make)
        remove(end)

    return {"snapshot": snapshot}


def _message(field: int, text: str) -> bytes:
    """Encode one string field of a protocol buffer; all of ours are shorter than 128 bytes."""
    content = text.encode()
    if len(content) > 127:
        raise ValueError(f"{text!r} is too long for this encoder")
    return bytes([field << 3 | 2, len(content)]) + content
