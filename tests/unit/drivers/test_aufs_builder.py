"""From branches to mount calls: every limit that AUFS has and does not tell."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowstore._linux.fd import Descriptor
from cowstore.drivers.aufs import builder
from cowstore.drivers.aufs.options import Options
from cowstore.errors import Unsupported
from cowstore.model import Mount, MountFlag
from cowstore.mounting import aufs

OPTIONS = ((b"dio", b""), (b"dirperm1", b""), (b"acl", b""), (b"xino", b"/dev/shm/.cowstore-0123456789abcdef.xino"))


@st.composite
def stacks(draw: st.DrawFn, most: int = 127) -> list[bytes]:
    """Paths of branches, distinct and none in another, of all lengths and with every awkward character."""
    count = draw(st.integers(1, most))
    prefix = draw(st.sampled_from([b"/s", b"/srv/store/aufs", b"/a:b,c=d", b"/" + b"x" * 100, b"/" + b"y" * 254]))
    middle = draw(st.binary(min_size=0, max_size=60).map(lambda raw: raw.replace(b"\0", b"_").replace(b"/", b"_")))
    return [b"%s/%s%d/fs" % (prefix, middle, number) for number in range(count)]


def data(step: Mount) -> bytes:
    """Write the step as data of mount(2), each branch as it is told."""
    parts = []
    for name, value in step.options:
        told = value
        if name in aufs.BRANCHES and aufs.by_descriptor(value):
            path, _, permission = value.rpartition(b"=")
            told = b"/proc/self/fd/9999999%s=%s" % (aufs.split(path)[1], permission)
        parts.append(name + b"=" + told if told else name)
    return b",".join(parts)


@given(stacks(), st.booleans())
def test_every_limit_is_kept(paths: list[bytes], writable: bool) -> None:
    branches = builder.branches_of(paths, writable=writable)
    steps = builder.build(branches, options=OPTIONS, read_only=not writable)
    for number, step in enumerate(steps):
        assert len(step.options) <= 84
        assert sum(name in aufs.BRANCHES for name, _ in step.options) <= 80
        assert len(data(step)) <= 4095
        # The kernel's own collector of old puts a comma before each.
        assert sum(1 + len(part) for part in data(step).split(b",")) <= 4095
        assert (step.flags is MountFlag.REMOUNT) == (number > 0)
        for name, value in step.options:
            assert name in aufs.BRANCHES or (number == 0 and (name, value) in OPTIONS)
            assert aufs.by_descriptor(value) or len(value) <= 255
    # Complete, in order, none twice; the first is br and all the others append.
    assert aufs.told(steps) == [(branch.path, branch.permission) for branch in branches]
    names = [name for step in steps for name, _ in step.options if name in aufs.BRANCHES]
    assert names == [b"br"] + [b"append"] * (len(paths) - 1)
    assert [pair for pair in steps[0].options if pair[0] not in aufs.BRANCHES] == list(OPTIONS)


@given(stacks(), st.booleans())
def test_lower_branches_always_count_their_whiteouts(paths: list[bytes], writable: bool) -> None:
    branches = builder.branches_of(paths, writable=writable)
    assert {branch.permission for branch in branches[1:]} <= {b"ro+wh"}
    assert branches[0].permission == (b"rw" if writable else b"ro+wh")


def test_120_layers_are_a_mount_and_a_remount() -> None:
    """AU-03."""
    paths = [b"/srv/store/aufs/%d/fs" % number for number in range(121)]
    steps = builder.build(builder.branches_of(paths, writable=True), options=OPTIONS)
    assert [len(step.options) for step in steps] == [84, 41]


def test_the_128th_branch_is_refused_with_the_number() -> None:
    """AU-03: only by this driver."""
    paths = [b"/s/%d" % number for number in range(128)]
    assert len(aufs.told(builder.build(builder.branches_of(paths[:127], writable=True), options=OPTIONS))) == 127
    with pytest.raises(Unsupported, match="128 AUFS branches at once: 127"):
        builder.build(builder.branches_of(paths, writable=True), options=OPTIONS)
    more = builder.build(builder.branches_of(paths, writable=True), options=OPTIONS, max_branches=511)
    assert len(aufs.told(more)) == 128


@pytest.mark.parametrize("length", [*range(20, 60), 100, 250, 255, 256, 300, 1000, 4000])
def test_a_string_is_never_cut(length: int) -> None:
    """At 4096 bytes the last permission would become another without an error. However long the paths: two calls."""
    paths = [b"/" + b"p" * (length - 4) + b"%03d" % number for number in range(127)]
    steps = builder.build(builder.branches_of(paths, writable=True), options=OPTIONS)
    assert all(len(data(step)) <= 4095 for step in steps)
    assert [sum(name in aufs.BRANCHES for name, _ in step.options) for step in steps] == [80, 47]


def test_a_long_option_makes_room_for_fewer_branches() -> None:
    paths = [b"/" + b"p" * 30 + b"%03d" % number for number in range(127)]
    options = ((b"xino", b"/" + b"x" * 250),)
    steps = builder.build(builder.branches_of(paths, writable=True), options=options)
    assert all(len(data(step)) <= 4095 for step in steps)
    assert len(steps) == 2


@pytest.mark.parametrize(
    "paths",
    [
        [],
        [b""],
        [b"relative"],
        [b"/a", b""],
        [b"/a\0b"],
        [b"/a", b"/a"],
        [b"/a", b"/a/"],
        [b"/a", b"/a/b"],
        [b"/a/b", b"/a"],
        [b"/", b"/a"],
    ],
)
def test_what_the_kernel_would_refuse_without_a_reason(paths: list[bytes]) -> None:
    with pytest.raises(ValueError, match="branch"):
        builder.build(builder.branches_of(paths, writable=True), options=OPTIONS)


@pytest.mark.parametrize("sign", [b":", b",", b"="])
def test_a_path_that_cannot_be_written_is_told_by_descriptor(sign: bytes) -> None:
    assert aufs.by_descriptor(b"/a" + sign + b"b=ro+wh")
    assert not aufs.by_descriptor(b"/a b\\c\xc3\xa4=ro+wh")
    assert aufs.by_descriptor(b"/" + b"x" * 250 + b"=ro+wh")


@pytest.mark.parametrize(
    ("path", "opened", "tail"),
    [
        (b"/srv/store/aufs/12/fs", b"/srv/store/aufs", b"/12/fs"),
        (b"/srv/store/aufs/1234567890/fs", b"/srv/store/aufs", b"/1234567890/fs"),
        (b"/srv/store/aufs/12345678901/fs", b"/srv/store/aufs/12345678901/fs", b""),
        (b"/a:b/12/fs", b"/a:b", b"/12/fs"),
        (b"/a/1=2/fs", b"/a/1=2/fs", b""),
        (b"/a/b", b"/a/b", b""),
        (b"/a", b"/a", b""),
        (b"/", b"/", b""),
    ],
)
def test_branches_of_one_directory_share_its_descriptor(path: bytes, opened: bytes, tail: bytes) -> None:
    assert aufs.split(path) == (opened, tail)


@given(stacks(), st.booleans())
@settings(max_examples=30)
def test_what_a_mount_is_told(paths: list[bytes], writable: bool) -> None:
    """Each value fits into a call, and all texts into mount(2); in order, none left out, few opened for it."""
    steps = builder.build(builder.branches_of(paths, writable=writable), options=OPTIONS)
    held: list[Descriptor] = []
    said: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        opened: dict[bytes, bytes] = {}

        def opens(path: bytes, flags: int) -> Descriptor:
            made = Descriptor(os.open("/", flags))
            opened[b"/proc/self/fd/%d" % made.fileno()] = path
            return made

        patch.setattr(aufs, "open_", opens)
        for step in steps:
            options = aufs.options_of(step, held)
            assert all(len(value) <= 255 for name, value in options)
            said += [one for name, value in options if name in aufs.BRANCHES for one in value.split(b":")]
        calls = aufs.calls_of(steps, held)
        for one in held:
            one.close()
    assert calls is not None
    assert len(calls) == len(steps)
    assert all(len(call) <= 4095 for call in calls)
    real = []
    for value in said:
        for told, path in opened.items():
            if value.startswith((told + b"/", told + b"=")):
                value = path + value[len(told) :]  # noqa: PLW2901
                break
        real.append(value)
    assert real == [path + b"=" + permission for path, permission in aufs.told(steps)]


def test_a_value_that_mount_would_cut_in_two() -> None:
    steps = builder.build(builder.branches_of([b"/a"], writable=True), options=((b"xino", b"/a,b"),))
    assert aufs.calls_of(steps, []) is None


@pytest.mark.parametrize(
    "given_options",
    [{"max_branches": 1}, {"max_branches": 40000}, {"xino_directory": "shm"}, {"xino_directory": "/a:b"}],
)
def test_options_that_can_never_work(given_options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is"):
        Options(**given_options)  # type: ignore[arg-type]
