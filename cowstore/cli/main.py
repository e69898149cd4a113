"""``cowstore``: reads the command line, runs the command, and turns whatever goes wrong into one line and a status."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import NoReturn

    from cowstore.cli._output import Output

FAILED, USAGE, INTERRUPTED, TERMINATED, CLOSED = 1, 2, 130, 143, 141


class _TerminatedError(BaseException):
    """SIGTERM, raised where it arrives, so that what is half done is undone on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: the command line without the program's name; None takes it from :data:`sys.argv`.
    :returns: the exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _fill_standard_descriptors()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = _report(words)
        _flush()
    except BrokenPipeError:
        # Its reader is gone: there is nobody to tell, and the interpreter must not try again at exit.
        _silence_stdout()
        return CLOSED
    except OSError as error:
        _silence_stdout()
        _complain(f"cannot write to standard output: {error.strerror}")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except _TerminatedError:
        return TERMINATED
    return status


def _fill_standard_descriptors() -> None:
    """Open what the caller closed of 0, 1 and 2, so that no file of the store gets such a number."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _report(words: list[str]) -> int:
    """Run the command and report its failure.

    :raises OSError: only when standard output cannot be written.
    """
    from cowstore.cli._parser import UsageError, build, merge_globals

    if words[:2] == ["completion", "words"]:
        # Asked by the scripts of `completion`. Not for the parser: the words are half a command line.
        from cowstore.cli._completion import complete

        complete(words[2:])
        return 0
    try:
        arguments = build().parse_args(words)
        merge_globals(arguments)
    except UsageError as error:
        _failure(error, json="--json" in words)
        return USAGE
    except SystemExit as leave:  # --help and --version have printed
        return leave.code if isinstance(leave.code, int) else FAILED
    _set_up_log()
    try:
        return _run(arguments)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - what nobody foresaw is told in one line too
        if isinstance(error.__cause__, BrokenPipeError):
            raise error.__cause__ from None
        if os.environ.get("COWSTORE_DEBUG"):
            import traceback

            traceback.print_exc()
        _failure(error, json=arguments.json)
        return FAILED


def _run(arguments: argparse.Namespace) -> int:
    import importlib

    from cowstore.cli._output import Output

    module, _, function = arguments.handler.partition(":")
    handler: Callable[[argparse.Namespace, Output], int | None]
    handler = getattr(importlib.import_module(f"cowstore.cli.{module}"), function)
    return handler(arguments, Output(json=arguments.json)) or 0


def _failure(error: Exception, *, json: bool) -> None:
    from cowstore.cli._output import describe, error_document

    _complain(describe(error))
    if json:
        print(error_document(error))


def _complain(text: str) -> None:
    """Write one line to standard error, if there is one."""
    try:
        print(f"cowstore: {text}", file=sys.stderr)
    except OSError:
        pass


def _set_up_log() -> None:
    """Show what the library logs: warnings, and everything with COWSTORE_DEBUG set."""
    import logging

    level = logging.DEBUG if os.environ.get("COWSTORE_DEBUG") else logging.WARNING
    logging.basicConfig(level=level, format="cowstore: %(message)s")


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _silence_stdout() -> None:
    """Point standard output to nowhere, so that flushing it at exit says nothing."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _TerminatedError


if __name__ == "__main__":
    sys.exit(main())
