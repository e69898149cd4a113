"""What commands write: JSON or lines on standard output, remarks and errors on standard error."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cowstore.model import Snapshot
    from cowstore.results import Change


class Output:
    """Where a command writes.

    :ivar json: the answer is one JSON document. Every other line then goes to standard error.
    """

    def __init__(self, *, json: bool) -> None:
        self.json = json
        if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
            # Names are bytes on disk: they leave as they are, whatever the locale.
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")

    @property
    def decorated(self) -> bool:
        """Whether standard output is a terminal and `rich` is there to draw on it."""
        if self.json or sys.stdout is None or not sys.stdout.isatty():
            return False
        try:
            import rich  # noqa: F401  # only asked for
        except (ImportError, OSError):
            return False
        return True

    def document(self, value: object) -> None:
        """Write the JSON document that is the answer."""
        import json

        print(json.dumps(value, indent=2 if sys.stdout is not None and sys.stdout.isatty() else None))

    def line(self, text: str, *, end: str = "\n") -> None:
        """Write one line of the answer; control characters are shown, not sent."""
        print(one_line(text), end=end)

    def branch(self, branch: str, key: str, mark: str) -> None:
        """Write one line of a tree: what leads to it, its name, and what there is to say of it."""
        if not self.decorated:
            self.line(f"{branch}{key}" + (f"  ({mark})" if mark else ""))
            return
        from rich.console import Console
        from rich.text import Text

        line = Text.assemble((branch, "dim"), (one_line(key), "" if mark else "bold"))
        if mark:
            line.append(f"  ({mark})", style="cyan" if mark == "view" else "yellow")
        Console().print(line, soft_wrap=True, highlight=False)

    def remark(self, text: str) -> None:
        """Write one line to standard error."""
        print(f"cowstore: {one_line(text)}", file=sys.stderr)

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write aligned columns under headings, drawn by `rich` on a terminal."""
        cells = [[one_line(cell) for cell in row] for row in rows]
        if self.decorated:
            _draw_table(headings, cells)
            return
        lines = [list(headings), *cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for row in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _draw_table(headings: Sequence[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def one_line(text: str) -> str:
    """Show control characters as escapes, so that a name cannot end a line or reach the terminal."""
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    number = ord(character)
    if number < 0x20 or 0x7F <= number < 0xA0:
        return f"\\x{number:02x}"
    return character


def change_line(change: Change) -> str:
    """Return ``A PATH``, ``M PATH`` or ``D PATH``."""
    return f"{change.kind.value[0].upper()} {change.path}"


def human_size(size_bytes: int) -> str:
    """Return a number of bytes for people, in powers of 1024."""
    if size_bytes < 0:
        return "?"
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def snapshot_document(snapshot: Snapshot) -> dict[str, object]:
    """Return a snapshot as JSON has it: times in ISO 8601, UTC."""
    return {
        "key": snapshot.key,
        "kind": snapshot.kind.value,
        "parent": snapshot.parent,
        "labels": dict(snapshot.labels),
        "created": snapshot.created.isoformat(),
        "updated": snapshot.updated.isoformat(),
        "id": snapshot.id,
    }


def describe(error: BaseException) -> str:
    """Return an error as one line: what was tried and what went wrong."""
    from cowstore.cli._parser import UsageError
    from cowstore.errors import CowstoreError

    text = str(error)
    if not isinstance(error, (CowstoreError, OSError, UsageError)):
        text = f"internal error, please report it: {type(error).__name__}: {text} (COWSTORE_DEBUG=1 shows where)"
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = ": ".join([*names, error.strerror])
        notes = getattr(error, "__notes__", ())
        if notes:
            text += f" ({'; '.join(map(str, notes))})"
    return one_line(" ".join(text.split("\n")) or type(error).__name__)


def error_document(error: BaseException) -> str:
    """Return an error as a JSON document: its class, its message, and the facts it carries."""
    import json

    facts = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    content = {"class": type(error).__name__, "message": describe(error), **facts}
    return json.dumps({"error": content}, default=str)
