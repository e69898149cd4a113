"""Loggers, made on first use: importing :mod:`logging` costs more than opening a store."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging


def logger(name: str) -> logging.Logger:
    """Return the standard library's logger of that name."""
    import logging

    return logging.getLogger(name)
