"""The conformance suite: a factory in, assertions out.

    import cowstore.testing

    with cowstore.testing.Factory("mydriver") as factory:
        for case in cowstore.testing.cases():
            try:
                cowstore.testing.run(case, factory)
            except cowstore.testing.NotApplicable as reason:
                print(f"{case.name}: skipped, {reason}")

No test framework is needed; with pytest, make each case a parameter. A case fails with :class:`AssertionError` (or with
whatever error the driver raised), and every case ends with a check of the store and a search for what was left behind.
:mod:`cowstore.testing.faults` kills a process at every fault point of every verb, :mod:`cowstore.testing.model` plays
random scripts against a model, and :mod:`cowstore.testing.crowd` lets many processes loose on one store.
"""

from __future__ import annotations

from cowstore.testing._case import Case, Factory, Ground, NotApplicable, case, run
from cowstore.testing.edits import Editor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Case", "Editor", "Factory", "Ground", "NotApplicable", "case", "cases", "run"]

MODULES = (
    "catalog_cases",
    "snapshots",
    "graph",
    "filesystem",
    "lifecycle",
    "fidelity",
    "grounds",
    "depth",
    "usage",
    "honesty",
    "namespaces",
)
"""The modules that hold cases, in the order in which they are run: what later ones stand on comes first."""


def cases() -> tuple[Case, ...]:
    """List all cases."""
    import importlib

    from cowstore.testing._case import registered

    for module in MODULES:
        importlib.import_module(f"cowstore.testing.{module}")
    return registered()


def named(name: str) -> Case:
    """Return the case of that name.

    :raises LookupError: there is none.
    """
    known: Mapping[str, Case] = {case.name: case for case in cases()}
    return known[name]
