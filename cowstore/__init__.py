"""Copy-on-write storage drivers behind one interface, and a small runtime on top.

    import cowstore

    with cowstore.open("/srv/store", driver="overlay") as store:
        store.import_tar("debian.tar.zst", name="debian")
        store.prepare("job-7", parent="debian")
        with store.mounted("job-7") as root:
            (root / "etc/motd").write_text("hi")
        for change in store.changes("job-7"):
            print(change.kind, change.path)
        store.commit("debian-motd", "job-7")

Names are loaded when they are first used, so that importing the package stays cheap.
"""

from __future__ import annotations

from cowstore._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._opening import open as open  # noqa: A004 - cowstore.open is the public name
    from cowstore.driver import Driver as Driver
    from cowstore.errors import AlreadyExists as AlreadyExists
    from cowstore.errors import Busy as Busy
    from cowstore.errors import CowstoreError as CowstoreError
    from cowstore.errors import DriverUnavailable as DriverUnavailable
    from cowstore.errors import HasChildren as HasChildren
    from cowstore.errors import InvalidArgument as InvalidArgument
    from cowstore.errors import InvalidImage as InvalidImage
    from cowstore.errors import InvalidLayer as InvalidLayer
    from cowstore.errors import NotFound as NotFound
    from cowstore.errors import OutOfSpace as OutOfSpace
    from cowstore.errors import StoreCorrupt as StoreCorrupt
    from cowstore.errors import StoreMismatch as StoreMismatch
    from cowstore.errors import Unsupported as Unsupported
    from cowstore.errors import WrongKind as WrongKind
    from cowstore.model import Capabilities as Capabilities
    from cowstore.model import Kind as Kind
    from cowstore.model import Mount as Mount
    from cowstore.model import MountFlag as MountFlag
    from cowstore.model import Snapshot as Snapshot
    from cowstore.results import Change as Change
    from cowstore.results import ChangeKind as ChangeKind
    from cowstore.results import DriverStatus as DriverStatus
    from cowstore.results import Finding as Finding
    from cowstore.results import FindingKind as FindingKind
    from cowstore.results import LayerInfo as LayerInfo
    from cowstore.results import Status as Status
    from cowstore.results import Usage as Usage
    from cowstore.runtime.aio import AsyncHandle as AsyncHandle
    from cowstore.runtime.aio import run_async as run_async
    from cowstore.runtime.aio import spawn_async as spawn_async
    from cowstore.runtime.api import run as run
    from cowstore.runtime.api import spawn as spawn
    from cowstore.runtime.binds import Bind as Bind
    from cowstore.runtime.handle import Handle as Handle
    from cowstore.runtime.limits import Limits as Limits
    from cowstore.runtime.result import Result as Result
    from cowstore.store import Store as Store

_HOMES = {
    "open": "_opening",
    "run": "runtime.api",
    "run_async": "runtime.aio",
    "spawn_async": "runtime.aio",
    "AsyncHandle": "runtime.aio",
    "spawn": "runtime.api",
    "Bind": "runtime.binds",
    "Handle": "runtime.handle",
    "Limits": "runtime.limits",
    "Result": "runtime.result",
    "Store": "store",
    "Driver": "driver",
    **dict.fromkeys(("Capabilities", "Kind", "Mount", "MountFlag", "Snapshot"), "model"),
    **dict.fromkeys(
        ("Change", "ChangeKind", "DriverStatus", "Finding", "FindingKind", "LayerInfo", "Status", "Usage"), "results"
    ),
    **dict.fromkeys(
        (
            "AlreadyExists", "Busy", "CowstoreError", "DriverUnavailable", "HasChildren", "InvalidArgument",
            "InvalidImage", "InvalidLayer", "NotFound", "OutOfSpace", "StoreCorrupt", "StoreMismatch", "Unsupported",
            "WrongKind",
        ),
        "errors",
    ),
}  # fmt: skip
"""Where each public name lives."""

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - the keys are the names


def __getattr__(name: str) -> object:
    """Load a public name from its home at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # importlib itself would cost more than what it is to import.
    found: object = getattr(__import__(f"{__name__}.{_HOMES[name]}", fromlist=(name,)), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
