"""``cowstore bench``: the benchmarks, as ``python -m benchmarks`` has them in a checkout."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cowstore.cli._output import Output


def bench(arguments: argparse.Namespace, out: Output) -> int:
    """Run one suite, or one command on results."""
    from cowstore.bench.command import main

    words = list(arguments.words)
    if out.json and words and words[0] != "compare":
        words.append("--json")
    return main(words, prog="cowstore bench")
