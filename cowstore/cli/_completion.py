"""Completion for shells: a few lines of shell each, which ask this module for the words that can stand next."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cowstore.cli._output import Output

KEYS = {"KEY", "PARENT", "BASE"}
"""What the parser calls an argument that is the key of a snapshot."""

SCRIPTS = {
    "bash": """\
_cowstore() {
    local IFS=$'\\n'
    COMPREPLY=($(cowstore completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -o bashdefault -F _cowstore cowstore
""",
    "zsh": """\
#compdef cowstore
_cowstore() {
    local -a found
    found=("${(@f)$(cowstore completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n $found ]]; then compadd -a found; else _files; fi
}
compdef _cowstore cowstore
""",
    "fish": """\
function __cowstore_words
    set -l words (commandline -opc) (commandline -ct)
    cowstore completion words $words[2..-1] 2>/dev/null
end
complete -c cowstore -a '(__cowstore_words)'
""",
}


def completion(arguments: argparse.Namespace, out: Output) -> None:
    """Print the script of a shell."""
    if out.json:
        out.document({"shell": arguments.shell, "script": SCRIPTS[arguments.shell]})
    else:
        print(SCRIPTS[arguments.shell], end="")


def complete(words: Sequence[str]) -> None:
    """Print what can stand in the place of the last of *words*, for those scripts."""
    from cowstore.cli._parser import build

    for word in sorted(set(candidates(build(), words or [""]))):
        print(word)


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> Iterator[str]:
    """Yield what can stand in the place of the last of *words*. Nothing: the shell offers files."""
    *before, last = words
    store, expected, parser = _position(parser, before)
    if last.startswith("-") and expected is None:
        offered = [name for action in parser._actions for name in action.option_strings]  # noqa: SLF001 - no public way
    elif expected is not None:
        offered = _values(expected, store)
    else:
        offered = [value for action in _positionals(parser) for value in _values(action, store)]
    yield from (word for word in offered if word.startswith(last))


def _position(
    parser: argparse.ArgumentParser, before: Sequence[str]
) -> tuple[str | None, argparse.Action | None, argparse.ArgumentParser]:
    """Walk the complete words: returns the store they name, the option that awaits a value, the parser in force."""
    store: str | None = None
    waiting: argparse.Action | None = None
    for word in before:
        if waiting is not None:
            store = word if waiting.dest.endswith("store") else store
            waiting = None
            continue
        name, equals, value = word.partition("=")
        option = _options(parser).get(name)
        if option is not None and option.nargs != 0:
            if not equals:
                waiting = option
            elif option.dest.endswith("store"):
                store = value
        elif word in (commands := _commands(parser)):
            parser = commands[word]
    return store, waiting, parser


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {name: action for action in parser._actions for name in action.option_strings}  # noqa: SLF001 - no public way


def _positionals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not action.option_strings]  # noqa: SLF001 - no public way


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in _positionals(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - no public way
            return dict(action.choices)
    return {}


def _values(action: argparse.Action, store: str | None) -> list[str]:
    """List what an argument can be, where that is known."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.metavar in KEYS:
        return _keys(store)
    if action.dest.endswith("driver"):
        from cowstore.drivers import names

        return names()
    return []


def _keys(store: str | None) -> list[str]:
    """List the keys of a store, or nothing: a TAB never complains."""
    import cowstore

    try:
        with cowstore.open(store, read_only=True) as opened:
            return [snapshot.key for snapshot in opened.walk()]
    except (cowstore.CowstoreError, OSError):
        return []
