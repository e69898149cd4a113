"""Which drivers work on this machine: each is tried where the store is, or would be."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cowstore.errors import CowstoreError, DriverUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What came of trying one driver.

    :ivar reason: why it is not usable, empty if it is. :ivar missing: what is missing, each with what to do.
    """

    name: str
    usable: bool
    reason: str = ""
    missing: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {"name": self.name, "usable": self.usable, "reason": self.reason, "missing": list(self.missing)}


def probe_all(root: str, arguments: argparse.Namespace) -> list[Probed]:
    """Try every driver in a directory made for that and removed again.

    :param root: the store's directory, whether it is there or not.
    """
    import tempfile

    from cowstore.drivers import names

    wanted = [arguments.driver] if arguments.driver else names()
    ground = _ground(root)
    with tempfile.TemporaryDirectory(prefix=".cowstore-probe-", dir=ground, ignore_cleanup_errors=True) as scratch:
        return [_probe(name, scratch, arguments) for name in wanted]


def _ground(root: str) -> str | None:
    """Return the closest directory above (or at) *root* in which something can be made; None for the default one."""
    path = root
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path if os.access(path, os.W_OK | os.X_OK) else None


def _probe(name: str, scratch: str, arguments: argparse.Namespace) -> Probed:
    from cowstore._opening import options_from
    from cowstore._rootless.verbs import probe
    from cowstore.cli._output import describe
    from cowstore.drivers import load

    directory = os.path.join(scratch, name)
    try:
        driver = load(name)
        options = options_from(driver, arguments.option if arguments.driver else {})
        os.mkdir(directory)
        probe(driver, directory, options)
    except DriverUnavailable as error:
        return Probed(name=name, usable=False, reason=describe(error), missing=error.missing)
    except ModuleNotFoundError:
        return Probed(name=name, usable=False, reason="this version of cowstore does not have it yet")
    except (CowstoreError, OSError, ImportError, TypeError, AttributeError) as error:
        # A driver of another package may fail in any way; that must not hide the others.
        if name == arguments.driver:
            raise
        return Probed(name=name, usable=False, reason=describe(error))
    return Probed(name=name, usable=True)
