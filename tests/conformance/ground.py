"""Which drivers there are, with which options the suite makes their stores, and whether they work on this machine."""

from __future__ import annotations

import os
import sys
import tempfile

from cowstore.drivers import BUILT_IN
from cowstore.errors import CowstoreError, DriverUnavailable
from cowstore.testing import Factory

IN_GUEST = "COWSTORE_VM" in os.environ
"""Whether this is a guest of the kernel tier, whose kernel has device-mapper."""

MAY_LACK = {"aufs"} if IN_GUEST else {"aufs", "devicemapper"}
"""Drivers that a kernel may be built without: then nothing is proven of them, which is no failure."""

CHOICE = "COWSTORE_TEST_DRIVERS"
"""Environment variable: drivers to run, separated by commas; all by default."""


_OPTIONS: dict[str, dict[str, object]] = {
    # The base is the smallest size a snapshot can ask for.
    "devicemapper": {
        "base_bytes": 48 << 20,
        "journal_bytes": 4 << 20,
        "data_bytes": 64 << 20,
        "metadata_bytes": 4 << 20,
    },
}


COPIES = {"devicemapper"}
"""Drivers whose stores, made like that, are plain files."""


def drivers() -> list[str]:
    """List the drivers to run the suite over."""
    chosen = os.environ.get(CHOICE)
    return chosen.split(",") if chosen else list(BUILT_IN)


def options(driver: str) -> dict[str, object]:
    """Return options that keep the driver's stores small."""
    return dict(_OPTIONS.get(driver, {}))


def verdict(driver: str, directory: str) -> str | None:
    """Try to make a store; return None if it works, otherwise why not, as the reason of a skip.

    Anything but a refusal by the driver itself is an error, not a reason to skip.
    """
    factory = Factory(driver, options=options(driver), directory=directory)
    try:
        factory.open(f"{directory}/store").destroy()
    except DriverUnavailable as error:
        return f"not proven: {error}" if driver in MAY_LACK else f"the {driver} driver does not work here: {error}"
    except (ModuleNotFoundError, CowstoreError) as error:
        return f"the {driver} driver does not work here: {error!r}"
    return None


def main(names: list[str]) -> int:
    """Say why some of these drivers do not work here, if so; the status is then 3."""
    missing = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="probe-") as directory:
            reason = verdict(name, directory)
        if reason is not None:
            missing += 1
            print(f"{name} on {os.uname().sysname} {os.uname().release}: {reason}", flush=True)
    return 3 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
