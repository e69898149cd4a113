"""Writes the pages whose content the code knows: the table of drivers, and the reference of the commands.

They are written to docs/_generated before Sphinx reads anything, and included by the pages that show them.
"""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sphinx.application import Sphinx

    from cowstore.driver import Driver

GENERATED = Path(__file__).resolve().parent.parent / "_generated"

CAPABILITIES = {
    "instant_create": "a child costs the same whatever the parent's size",
    "max_depth": "committed ancestors a snapshot may have",
    "size_limits": "enforces `size_bytes`",
    "shared_writing": "one active snapshot can be mounted for writing more than once at a time",
    "shares_page_cache": "a parent's file is cached once for all children",
    "directory_rename": "a directory of a parent can be renamed",
    "adopts": "takes a directory outside the store as a layer",
    "volatile_mounts": "throw-away snapshots are not synced",
    "rootless": "works for an ordinary user",
    "inode_usage": "`usage` counts inodes",
    "kernel_changes": "`changes` asks the kernel instead of comparing two trees",
    "exact_times": "times are kept to the nanosecond",
    "xattr_removal": "a program can remove an extended attribute",
}
"""Each capability in words, in the order of the table. A test compares it with the data class."""


MECHANISMS = {
    "overlay": "one directory to write, over those of its ancestors",
    "btrfs": "subvolumes and their snapshots, on a Btrfs or in a loop file",
    "devicemapper": "thin pool: each snapshot a block device of its own",
    "aufs": "branches and whiteouts, where a kernel has it",
    "copy": "a copied tree, by reflink where the file system can",
}
"""What each built-in driver stands on, in a few words."""


def drivers() -> Iterator[type[Driver]]:
    """Yield the built-in drivers that this version has."""
    from cowstore.drivers import BUILT_IN, load

    for name in BUILT_IN:
        try:
            yield load(name)
        except (ModuleNotFoundError, AttributeError):  # a driver on its way into this version
            continue


README = GENERATED.parent.parent / "README.md"
README_START, README_END = "<!-- drivers: made by docs/_ext/from_code.py -->\n", "<!-- end of drivers -->"


def readme_with_drivers() -> str:
    """Return the README with its table of drivers as the code has them."""
    before, _, rest = README.read_text().partition(README_START)
    _, _, after = rest.partition(README_END)
    return f"{before}{README_START}\n{driver_summary()}\n{README_END}{after}"


def driver_summary() -> str:
    """Return the short table of the README: driver, mechanism, and what most ask first."""
    rows = [
        (
            _page(driver, "docs/drivers/"),
            MECHANISMS[driver.name],
            _cell(driver.capabilities.max_depth),
            _cell(driver.capabilities.rootless),
            _sizes(driver),
        )
        for driver in drivers()
    ]
    return _table(("driver", "mechanism", "layers deep", "rootless", "size limits"), rows)


def capability_table() -> str:
    """Return the table of every capability of every driver."""
    found = list(drivers())
    rows = [(text, *(_capability(driver, name) for driver in found)) for name, text in CAPABILITIES.items()]
    return _table(("", *(_page(driver) for driver in found)), rows)


def _page(driver: type[Driver], directory: str = "") -> str:
    """Return the driver's name, as a link where it has a page."""
    page = f"{driver.name}.md"
    exists = (GENERATED.parent / "drivers" / page).exists()
    return f"[`{driver.name}`]({directory}{page})" if exists else f"`{driver.name}`"


def _capability(driver: type[Driver], name: str) -> str:
    return _sizes(driver) if name == "size_limits" else _cell(getattr(driver.capabilities, name))


def _sizes(driver: type[Driver]) -> str:
    """Say whether sizes are enforced; for some drivers that is up to the file system they are on."""
    from cowstore.drivers._sized import SizedDriver

    if issubclass(driver, SizedDriver):
        return "by project quotas, or as images"
    return _cell(driver.capabilities.size_limits)


def _cell(value: object) -> str:
    if value is None:
        return "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(headings), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def commands(parser: argparse.ArgumentParser) -> str:
    """Return the reference of a command line as definition lists."""
    parts = [f"```text\n{parser.format_usage().removeprefix('usage: ')}```\n", f"{parser.description}\n"]
    parts.extend(_arguments(parser))
    for name, made in _commands_of(parser):
        parts.append(f"### {parser.prog} {name}\n")
        parts.append(f"```text\n{_own_usage(made)}```\n")
        parts.append(f"{made.description}\n")
        parts.extend(_arguments(made, without="global options"))
    return "\n".join(parts)


def _commands_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _own_usage(parser: argparse.ArgumentParser) -> str:
    """Return the usage of a command without the options that all have."""
    formatter = parser._get_formatter()
    own = [action for action in parser._actions if not action.dest.startswith("after_")]
    formatter.add_usage(None, own, [], prefix="")
    return formatter.format_help()


def _arguments(parser: argparse.ArgumentParser, *, without: str = "-") -> Iterator[str]:
    for group in parser._action_groups:
        if (group.title or "").startswith(without):
            continue
        for action in group._group_actions:
            shown = action.help and action.help is not argparse.SUPPRESS
            if shown and not isinstance(action, argparse._SubParsersAction):
                value = "" if action.nargs == 0 else f" {action.metavar or action.dest}"
                names = ", ".join(f"`{name}{value}`" for name in action.option_strings) or f"`{action.metavar}`"
                yield f"{names}\n: {(action.help or '') % {**vars(action), 'prog': parser.prog}}\n"


OPTION = re.compile(r"  (--\S.*?)(?:  +(\S.*))?$")
"""A line of a hand-written help: an option with its value, two spaces or more, what it does."""


def hand_written(text: str) -> str:
    """Return a help text that no parser wrote: its usage, paragraphs, and sections of options as definition lists."""
    parts: list[str] = []
    for line in text.splitlines():
        option = OPTION.match(line)
        if line.startswith("usage: "):
            parts.append(f"```text\n{line.removeprefix('usage: ')}\n```\n\n")
        elif option:
            parts.append(f"\n`{option[1]}`\n: {option[2] or 'print that, and end'}\n")
        elif line.startswith("   "):
            parts.append(f"  {line.strip()}\n")
        elif line.endswith(":") and not line.startswith(" "):
            parts.append(f"\n### {line.removesuffix(':')}\n")
        else:
            parts.append(f"{line}\n")
    return "".join(parts)


def write_all() -> None:
    """Write the generated pages."""
    GENERATED.mkdir(exist_ok=True)
    pages = {
        "capabilities.md": capability_table(),
        "cowstore.md": commands(importlib.import_module("cowstore.cli._parser").build()),
        "cowstore-run.md": hand_written(importlib.import_module("cowstore.cli._run_options").HELP),
    }
    for name, text in pages.items():
        path = GENERATED / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages once the configuration is known, before any source is read."""
    app.connect("config-inited", lambda _app, _config: write_all())
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    README.write_text(readme_with_drivers())
