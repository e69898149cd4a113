"""Hostile archives by the thousand: either a tree inside the root, or `InvalidLayer`, and never anything else.

`COWSTORE_FUZZ_EXAMPLES` sets how many are tried; the default is a few seconds' worth.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowstore.errors import InvalidLayer
from cowstore.layers.compression import open_stream
from cowstore.layers.extract import Devices, Owners, Whiteouts, extract
from cowstore.layers.limits import Limits
from tests.unit.layers.archives import END, GNU, USTAR, block, directory, file, pad, pax, sealed, survey, symlink

EXAMPLES = int(os.environ.get("COWSTORE_FUZZ_EXAMPLES", "250"))
LIMITS = Limits(total_bytes=10 << 20, entries=300, header_bytes=100_000)
CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.tar.gz"))
SEEDS = [gzip.decompress(path.read_bytes()) for path in CORPUS]

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="COWSTORE_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", autouse=True)
def no_recursion() -> object:
    """Depth must not come from the archive."""
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    yield
    sys.setrecursionlimit(old)


def try_one(archive: bytes, *, lower: bool, owners: Owners, whiteouts: Whiteouts) -> bool:
    """Unpack an archive beside things that must not change; tell whether it was good."""
    place = Path(tempfile.mkdtemp(prefix="cowstore-fuzz-"))
    try:
        outside = place / "outside"
        outside.mkdir()
        (outside / "secret").write_text("secret")
        root = place / "a" / "root"
        root.mkdir(parents=True)
        if lower:
            (root / "d").mkdir()
            (root / "d" / "f").write_text("lower")
            (root / "out").symlink_to(outside)
            (root / "up").symlink_to("../../outside")
            (root / "etc").mkdir()
        before = survey(place, without=root)
        fd = os.open(root, os.O_RDONLY)
        try:
            extract(io.BytesIO(archive), fd, limits=LIMITS, owners=owners, devices=Devices.SKIP, whiteouts=whiteouts)
            good = True
        except InvalidLayer:
            good = False
        finally:
            os.close(fd)
        assert survey(place, without=root) == before
        return good
    finally:
        # Modes that bind an ordinary user must not bind the clean-up.
        for path, directories, _ in os.walk(place):
            for name in directories:
                if not os.path.islink(os.path.join(path, name)):
                    os.chmod(os.path.join(path, name), 0o700)
        shutil.rmtree(place)


PARTS = st.sampled_from(
    [b"d", b"f", b"e", b"..", b".", b"", b"out", b"up", b"x", b".wh.d", b".wh..wh..opq", b".wh..", b".wh.x"]
)
NAMES = st.one_of(
    st.lists(PARTS, min_size=1, max_size=5).map(b"/".join),
    st.sampled_from([b"/", b"../outside/secret", b"/../outside/secret", b"out/secret", b"up/secret", b"etc/passwd"]),
    st.binary(min_size=1, max_size=120).filter(lambda name: b"\0" not in name),
)
TAME_NAMES = st.lists(
    st.sampled_from([b"d", b"d", b"e", b"f", b"g", b"out", b"up", b"x", b".wh.d", b".wh..wh..opq", b".wh.f", b"."]),
    min_size=1,
    max_size=3,
).map(b"/".join)
NUMBERS = [b"", b"0", b"1", b"5", b"600", b"-1", b"1.5", b"0,5", b"99999999999", b"4294967295"]
FIELDS = [
    (0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (329, 8), (345, 155),
    (386, 24), (482, 1), (483, 12),
]  # fmt: skip
KEYWORDS = [
    b"path", b"linkpath", b"size", b"uid", b"mtime", b"hdrcharset", b"comment", b"SCHILY.xattr.user.k",
    b"SCHILY.acl.access", b"SCHILY.acl.default", b"GNU.sparse.map", b"GNU.sparse.size", b"GNU.sparse.major",
    b"GNU.sparse.realsize", b"GNU.sparse.offset", b"GNU.sparse.numbytes", b"GNU.sparse.name",
]  # fmt: skip
WILD_RECORDS = st.lists(
    st.tuples(st.sampled_from(KEYWORDS), st.one_of(NAMES, st.sampled_from(NUMBERS))), min_size=1, max_size=4
)
TAME_RECORDS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([b"path", b"linkpath", b"SCHILY.xattr.user.k"]), TAME_NAMES),
        st.sampled_from(
            [
                (b"mtime", b"-5.25"),
                (b"uid", b"77"),
                (b"SCHILY.acl.access", b"user::rwx,group::r-x,other::---"),
                (b"SCHILY.acl.default", b"user::rwx,user:lisa:r--,group::r-x,mask::r--,other::---"),
                (b"SCHILY.xattr.security.capability", b"\1\0\0\2" + bytes(16)),
            ]
        ),
    ),
    max_size=3,
)
RECORDS = st.one_of(st.just([]), st.just([]), st.just([]), st.just([]), TAME_RECORDS, WILD_RECORDS)
FLAGS = [bytes([flag]) for flag in b"000111222555563450SLKD"] + [b"\0"]


@st.composite
def entry(draw: st.DrawFn, *, wild: bool) -> bytes:
    """One entry; wild ones break every rule there is, tame ones only those that matter to where things go."""
    flag = draw(st.sampled_from(FLAGS if wild else FLAGS[:16]))
    data = (
        draw(st.binary(max_size=700))
        if flag in {b"0", b"S", b"L", b"K", b"\0", b"D"} or (wild and draw(RARELY))
        else b""
    )
    records = draw(RECORDS if wild else TAME_RECORDS)
    head = pax(records, b"g" if wild and draw(RARELY) else b"x") if records else b""
    mode = draw(st.integers(0, 0o7777))
    return (
        head
        + block(
            draw(NAMES if wild else TAME_NAMES),
            flag,
            size=len(data) + (draw(st.sampled_from([1, -1, 1 << 40])) if wild and draw(RARELY) else 0),
            link=draw(st.one_of(TAME_NAMES, NAMES)),
            mode=mode,
            magic=draw(st.sampled_from([USTAR, GNU, bytes(8)])) if wild else USTAR,
            major=mode % 7,
            minor=mode % 11,
        )
        + pad(data)
    )


RARELY = st.integers(0, 15).map(lambda number: number == 7)


@fuzz
@given(
    parts=st.lists(entry(wild=False), min_size=1, max_size=12),
    lower=st.booleans(),
    owners=st.sampled_from(list(Owners) if os.geteuid() == 0 else [Owners.CALLER]),
)
def test_archives_of_clever_entries(parts: list[bytes], lower: bool, owners: Owners) -> None:
    """Most of these are unpacked."""
    try_one(b"".join(parts) + END, lower=lower, owners=owners, whiteouts=Whiteouts.APPLY)


@fuzz
@given(
    parts=st.lists(entry(wild=True), min_size=1, max_size=8),
    lower=st.booleans(),
    owners=st.sampled_from(list(Owners) if os.geteuid() == 0 else [Owners.CALLER]),
    whiteouts=st.sampled_from(list(Whiteouts)),
)
def test_archives_of_evil_entries(parts: list[bytes], lower: bool, owners: Owners, whiteouts: Whiteouts) -> None:
    try_one(b"".join(parts) + END, lower=lower, owners=owners, whiteouts=whiteouts)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good archive with some bytes, or whole blocks, changed; half of them with their checksums put right again."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        blocks = max(1, len(data) // 512)
        number = draw(st.integers(0, blocks - 1))
        start = 512 * number
        match draw(st.sampled_from(["byte", "field", "delete", "double", "swap", "cut", "insert"])):
            case "byte":
                position = start + draw(st.integers(0, 511))
                data[position : position + 1] = draw(st.binary(min_size=1, max_size=1))
            case "field":
                position, width = draw(st.sampled_from(FIELDS))
                data[start + position : start + position + width] = draw(st.binary(max_size=width)).ljust(width, b"\0")
            case "delete":
                del data[start : start + 512]
            case "double":
                data[start:start] = data[start : start + 512]
            case "swap":
                other = 512 * draw(st.integers(0, blocks - 1))
                data[start : start + 512], data[other : other + 512] = (
                    data[other : other + 512],
                    data[start : start + 512],
                )
            case "cut":
                del data[draw(st.integers(0, len(data))) :]
            case "insert":
                data[start:start] = draw(entry(wild=True))
    if draw(st.booleans()):
        for start in range(0, len(data) - 511, 512):
            if data[start + 257 : start + 262] == b"ustar":
                data[start : start + 512] = sealed(bytes(data[start : start + 512]))
    return bytes(data)


@fuzz
@given(
    archive=mutated(),
    lower=st.booleans(),
    owners=st.sampled_from(list(Owners) if os.geteuid() == 0 else [Owners.CALLER]),
)
def test_good_archives_gone_bad(archive: bytes, lower: bool, owners: Owners) -> None:
    try_one(archive, lower=lower, owners=owners, whiteouts=Whiteouts.APPLY)


@pytest.mark.parametrize("number", range(len(SEEDS)), ids=[path.name for path in CORPUS])
def test_the_corpus_is_good(number: int) -> None:
    assert try_one(SEEDS[number], lower=False, owners=Owners.CALLER, whiteouts=Whiteouts.APPLY)


@fuzz
@given(
    data=st.binary(max_size=3000),
    start=st.sampled_from([b"", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0"]),
)
def test_junk_in_every_compression(data: bytes, start: bytes) -> None:
    try:
        with open_stream(io.BytesIO(start + data), limits=LIMITS) as stream:
            stream.read()
    except InvalidLayer:
        pass


@st.composite
def mutated_packed(draw: st.DrawFn) -> bytes:
    data = bytearray(CORPUS[draw(st.integers(0, len(CORPUS) - 1))].read_bytes())
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(data) - 1))
        data[position : position + 1] = draw(st.binary(max_size=3))
    return bytes(data)


@fuzz
@given(data=mutated_packed())
def test_damaged_gzip(data: bytes) -> None:
    try:
        with open_stream(io.BytesIO(data), limits=LIMITS) as stream:
            try_one(stream.read(), lower=True, owners=Owners.CALLER, whiteouts=Whiteouts.APPLY)
    except InvalidLayer:
        pass


def test_the_fuzzer_has_teeth() -> None:
    """It notices when something outside changes."""
    archive = directory(b"d") + symlink(b"esc", b"../../outside") + file(b"esc/new", b"1") + END
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cowstore.layers.tree.RESOLVE", 0)
        patch.setattr("cowstore.layers.tree._FLAGS", os.O_PATH | os.O_DIRECTORY)
        with pytest.raises(AssertionError):
            try_one(archive, lower=False, owners=Owners.CALLER, whiteouts=Whiteouts.APPLY)
