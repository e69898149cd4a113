"""The drivers, found by name. The built-in ones need no look-up in installed packages."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.driver import Driver

BUILT_IN = {
    "overlay": ("cowstore.drivers.overlay", "Overlay"),
    "btrfs": ("cowstore.drivers.btrfs", "Btrfs"),
    "devicemapper": ("cowstore.drivers.devicemapper", "DeviceMapper"),
    "aufs": ("cowstore.drivers.aufs", "Aufs"),
    "copy": ("cowstore.drivers.copy", "Copy"),
}
"""Module and class of each built-in driver."""

ENTRY_POINTS = "cowstore.drivers"
"""Entry-point group through which other packages add drivers; the entry point's name is the driver's."""


def load(name: str) -> type[Driver]:
    """Return the driver class of that name.

    :raises InvalidArgument: no driver has that name; the message lists those there are.
    """
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        # importlib itself would cost as much as the driver.
        found: type[Driver] = getattr(__import__(module, fromlist=(attribute,)), attribute)
        return found
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        loaded: type[Driver] = entry.load()
        return loaded
    from cowstore.errors import InvalidArgument

    raise InvalidArgument(f"there is no driver {name!r}; there are: {', '.join(names())}", argument="driver")


def names() -> list[str]:
    """List the names of all drivers, the built-in ones first."""
    from importlib.metadata import entry_points

    added = sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)} - set(BUILT_IN))
    return [*BUILT_IN, *added]
