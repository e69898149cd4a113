"""What an image says of how to run it."""

from __future__ import annotations

import json

import pytest

from cowstore.runtime.image import NOTHING, ImageConfig, parse


def test_everything_it_may_say() -> None:
    config = {
        "Env": ["PATH=/x", "A=b=c", "no value", "=x"],
        "Entrypoint": ["/init"],
        "Cmd": ["serve", "-v"],
        "WorkingDir": "/srv",
        "User": "app:staff",
        "StopSignal": "SIGQUIT",
    }
    wanted = ImageConfig(
        argv=("/init", "serve", "-v"), env=(("PATH", "/x"), ("A", "b=c")), cwd="/srv", user="app:staff", stop_signal=3
    )
    assert parse(json.dumps(config)) == wanted
    assert parse(json.dumps({"architecture": "amd64", "config": config})) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "3",
        "{}",
        '{"config": null}',
        '{"Env": 3, "Cmd": "sh", "WorkingDir": "rel", "User": 4, "StopSignal": []}',
    ],
)
def test_what_makes_no_sense_is_as_if_absent(text: str) -> None:
    assert parse(text) == NOTHING


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("SIGINT", 2), ("9", 9), ("nonsense", 15), ("999", 15)])
def test_stop_signals(text: str, number: int) -> None:
    assert parse(json.dumps({"StopSignal": text})).stop_signal == number
