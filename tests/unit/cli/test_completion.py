"""What TAB offers."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from cowstore.cli import _completion, _parser


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["im"], {"import"}),
        (["--st"], {"--store"}),
        (["ls", "--ki"], {"--kind"}),
        (["ls", "--kind", ""], {"active", "view", "committed"}),
        (["--store", "/x", "umo"], {"umount"}),
        (["--store=/x", "umo"], {"umount"}),
        (["--driver", "co"], {"copy"}),
        (["import", "/et"], set()),
        (["nonesuch", "x"], set()),
    ],
)
def test_words(words: list[str], offered: set[str]) -> None:
    assert set(_completion.candidates(_parser.build(), words)) == offered


@pytest.mark.parametrize("before", [["rm"], ["rm", "one"], ["changes", "one"], ["prepare", "new", "--parent"], ["df"]])
def test_keys(before: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def keys(store: str | None) -> list[str]:
        asked.append(store)
        return ["one", "other", "two"]

    monkeypatch.setattr(_completion, "_keys", keys)
    assert set(_completion.candidates(_parser.build(), ["--store", "/x", *before, "o"])) == {"one", "other"}
    assert set(asked) == {"/x"}


def test_a_tab_never_complains() -> None:
    assert _completion._keys("/nonesuch") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_read_its_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"elsewhere: {shell} is not installed; its script is checked where it is")
    script = _completion.SCRIPTS[shell]
    subprocess.run([shell, "-n"], input=script, text=True, timeout=20, check=True)
