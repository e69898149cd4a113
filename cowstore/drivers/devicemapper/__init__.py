"""The devicemapper driver: one thin pool, one base, every snapshot a thin snapshot of its parent.

The base is thin device 0, with an empty file system; an image's layers and the containers on them are snapshots of
it, of each other, and take what differs, block by block. Alexander Larsson's design (2013), on direct ioctls.
"""

from __future__ import annotations

from cowstore.drivers.devicemapper.driver import DeviceMapper

__all__ = ["DeviceMapper"]
