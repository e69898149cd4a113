"""Btrfs: subvolumes and snapshots."""

from __future__ import annotations

from cowstore.drivers.btrfs.driver import Btrfs

__all__ = ["Btrfs"]
