"""Chains of layers: at and around every limit that other systems had, and beyond the driver's own."""

from __future__ import annotations

import os

from cowstore.errors import Unsupported
from cowstore.testing._case import Ground, case
from cowstore.testing._expect import equal, refused
from cowstore.testing.edits import Editor

DEPTHS = (1, 2, 42, 127, 128, 129, 500, 501)
"""Layers below the topmost snapshot: AUFS' and overlay's branch limits, page limits, and the kernel's own."""

_SMALL = 130
_COPIED = 50
"""Where each child is a copy, depth is nothing but work."""


def _grow(ground: Ground, count: int) -> list[str]:
    """Stack *count* layers; each adds a file, rewrites one, and removes one of the layer below."""
    store, parent, keys = ground.store, None, []
    for number in range(count):
        store.prepare("active", parent)
        with ground.mounted("active") as root:
            tree = Editor(root, round_=number)
            tree.write(f"file-{number}", f"layer {number}")
            tree.write("last", f"{number}")
            tree.write(f"gone-{number}", "x")
            if number:
                tree.remove(f"gone-{number - 1}")
        parent = store.commit(f"layer-{number}", "active").key
        keys.append(parent)
    return keys


def _look(root: str, count: int) -> None:
    """Assert that the tree shows the file of each of *count* layers, and the topmost's word."""
    expected = {f"file-{number}" for number in range(count)} | {"last", f"gone-{count - 1}"}
    equal(set(os.listdir(root)), expected, f"names with {count} layers")
    for number in range(count):
        with open(f"{root}/file-{number}", encoding="utf-8") as file:
            equal(file.read(), f"layer {number}", f"file of layer {number} of {count}")
    with open(f"{root}/last", encoding="utf-8") as file:
        equal(file.read(), str(count - 1), "the topmost word")


def _at_depths(ground: Ground, depths: tuple[int, ...]) -> None:
    ground.reopen(volatile=True)
    limit = ground.store.status().capabilities.max_depth
    most = max(depths) if limit is None else min(max(depths), limit)
    keys = _grow(ground, most)
    for count in depths:
        if count > most:
            refused(Unsupported, lambda: _go_deeper(ground, keys[-1]), saying="layers")
            continue
        ground.store.prepare("top", keys[count - 1])
        ground.store.view("seen", keys[count - 1])
        with ground.mounted("top") as root, ground.mounted("seen") as seen:
            _look(root, count)
            _look(seen, count)
            Editor(root, round_=9999).write("written", "on top")
        found = [path for _, path in ground.changes("top") if path != "."]
        equal(found, ["written"], f"changes on {count} layers")
        ground.store.remove("top")
        ground.store.remove("seen")
    ground.empty()


def _go_deeper(ground: Ground, key: str) -> None:
    """Go beyond the limit: a child of the deepest that can be had may be made, but not one of its commit."""
    ground.store.prepare("deeper", key)
    ground.store.commit("deepest", "deeper")
    try:
        ground.store.prepare("too-deep", "deepest")
    finally:
        ground.store.remove("deepest")


@case("graphtest DeepLayerRead(128); aufs MountMoreThan42Layers; OV-01, AU-03", slow=True)
def around_128(ground: Ground) -> None:
    """Up to 1, 2, 42, 127, 128 and 129 layers show each layer's file, can be written to, and tell their changes."""
    most = _SMALL if ground.store.status().capabilities.instant_create else _COPIED
    _at_depths(ground, tuple(depth for depth in DEPTHS if depth < most))


@case("graphtest DeepLayerRead(500); beyond (10)", needs=("instant_create",), slow=True)
def around_500(ground: Ground) -> None:
    """500 layers work, and 501 or the refusal by the driver's own limit."""
    _at_depths(ground, tuple(depth for depth in DEPTHS if depth > _SMALL))


@case("design: deeper than max_depth is Unsupported", slow=True)
def limit_is_honest(ground: Ground) -> None:
    """At the declared limit a snapshot can be mounted; one more is Unsupported before anything is made."""
    limit = ground.store.status().capabilities.max_depth
    if limit is None or limit in DEPTHS or limit > 2 * max(DEPTHS):
        # None to try, tried already, or beyond what can be.
        return
    ground.reopen(volatile=True)
    parent = None
    for number in range(limit):
        ground.store.prepare("active", parent)
        parent = ground.store.commit(f"layer-{number}", "active").key
    ground.store.prepare("top", parent)
    with ground.mounted("top") as root:
        Editor(root, round_=1).write("file", "on top")
    ground.store.view("seen", parent or "")
    with ground.mounted("seen"):
        pass
    ground.store.commit("one-too-many", "top")
    before = ground.listed()
    refused(Unsupported, lambda: ground.store.prepare("deeper", "one-too-many"))
    equal(ground.listed(), before, "keys")
    with ground.mounted("one-too-many") as root:
        equal(os.listdir(root), ["file"], "names")


@case("AU-03: MountMoreThan42LayersMatchingPathLength; OV-01", slow=True)
def deep_below_a_long_path(ground: Ground) -> None:
    """120 layers below a path of more than 120 characters."""
    root = os.path.join(ground.directory, "p" * 120, "store")
    os.makedirs(os.path.dirname(root))
    ground.root = root
    ground.shut()
    ground.reopen(volatile=True)
    count = 120 if ground.store.status().capabilities.instant_create else _COPIED
    keys = _grow(ground, count)
    with ground.mounted(keys[-1]) as tree:
        _look(tree, count)
