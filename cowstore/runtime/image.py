"""What an image says of how to run it: the label that an imported image's top layer has."""

from __future__ import annotations

import signal

from cowstore._frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.store import Store

LABEL = "cowstore.image.config"
"""Label with an OCI image configuration, as JSON. Source: OCI image specification, config.md."""


@frozen
class ImageConfig:
    """How an image wants to be run; what it does not say is empty.

    :ivar argv: its entry point and default arguments. :ivar env: its variables. :ivar cwd: its working directory.
    :ivar user: whom to run as. :ivar stop_signal: what ends its program.
    """

    argv: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = ""
    user: str = ""
    stop_signal: int = signal.SIGTERM


NOTHING = ImageConfig()


def config_of(store: Store, key: str) -> ImageConfig:
    """Return what the nearest of a snapshot and its ancestors says that says anything.

    :raises NotFound: no such snapshot.
    """
    catalog = store._core.catalog  # noqa: SLF001  # labels as text: reading JSON costs more than running `true`
    at: str | None = key
    while at is not None:
        row = catalog.get(at)
        if LABEL in row.labels:
            return parse(row.snapshot().labels.get(LABEL, "{}"))
        at = row.parent_key
    return NOTHING


def parse(text: str) -> ImageConfig:
    """Read the label; fields of another sort than the specification's are as if absent."""
    import json

    try:
        found = json.loads(text)
    except ValueError:
        return NOTHING
    if isinstance(found, dict):
        found = found.get("config", found)  # the label holds the whole configuration; only this part is about running
    if not isinstance(found, dict):
        return NOTHING
    pairs = [entry.partition("=") for entry in _strings(found.get("Env"))]
    cwd, user = found.get("WorkingDir"), found.get("User")
    return ImageConfig(
        argv=(*_strings(found.get("Entrypoint")), *_strings(found.get("Cmd"))),
        env=tuple((name, value) for name, equals, value in pairs if name and equals),
        cwd=cwd if isinstance(cwd, str) and cwd.startswith("/") else "",
        user=user if isinstance(user, str) else "",
        stop_signal=_signal(found.get("StopSignal")),
    )


def _strings(value: object) -> list[str]:
    return [part for part in value if isinstance(part, str) and "\0" not in part] if isinstance(value, list) else []


def _signal(value: object) -> int:
    """Read ``SIGTERM``, ``TERM`` or ``15``."""
    if not isinstance(value, str) or not value:
        return signal.SIGTERM
    if value.isdigit():
        return int(value) if 0 < int(value) < signal.NSIG else signal.SIGTERM
    name = value.upper()
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", signal.SIGTERM)
    return found if isinstance(found, signal.Signals) else signal.SIGTERM
