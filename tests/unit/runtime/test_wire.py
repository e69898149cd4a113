"""What crosses from process to process arrives as it left."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowstore.model import Mount, MountFlag
from cowstore.runtime import messages
from cowstore.runtime.binds import Bind
from cowstore.runtime.spec import Spec
from cowstore.runtime.transport import pack, unpack

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from(["\udc80", "\udcff"]))


@given(TEXT, st.binary(), st.booleans())
def test_a_spec_survives_the_way(text: str, content: bytes, flag: bool) -> None:
    mount = Mount(type="overlay", source=content, options=((b"a", content),), flags=MountFlag.RDONLY | MountFlag.NODEV)
    spec = Spec(
        mounts=(mount, Mount(type="bind", source=b"/", subdir=content)),
        argv=("sh", "=Spec", text),
        env=((text or "A", text),),
        cwd="/" + text,
        hostname=text if flag else None,
        read_only=flag,
        binds=(Bind(source="/a", target="/" + text, read_only=flag),),
    )
    arrived, more = unpack(pack(spec, timeout_s=1.5))
    assert arrived == spec
    assert type(arrived.mounts[0].flags) is MountFlag
    assert more == {"timeout_s": 1.5}


@given(st.lists(st.tuples(TEXT, st.integers(-(2**31), 2**31))), st.integers(1, 9))
def test_messages_arrive_whole_however_they_are_cut(sent: list[tuple[str, int]], step: int) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        for message in sent:
            messages.send(write, *message)
        content = os.read(read, 1 << 20) if sent else b""
    finally:
        os.close(read)
        os.close(write)
    reader = messages.Reader()
    found = [message for at in range(0, len(content), step) for message in reader.feed(content[at : at + step])]
    assert found == sent


def test_a_long_failure_is_cut_to_what_a_pipe_takes_at_once() -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        messages.fail(write, 125, "é" * 5000)
        content = os.read(read, 1 << 20)
    finally:
        os.close(read)
        os.close(write)
    assert len(content) <= 4096
    [(kind, status, text)] = messages.Reader().feed(content)
    assert (kind, status) == (messages.FAILED, 125)
    assert isinstance(text, str)


def test_a_reader_that_is_gone_is_no_error() -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    os.close(read)
    try:
        messages.send(write, messages.RUNNING)
    finally:
        os.close(write)


def test_specs_are_frozen() -> None:
    spec = Spec(mounts=(), argv=("true",))
    with pytest.raises(AttributeError):
        spec.cwd = "/tmp"  # type: ignore[misc]
