from __future__ import annotations

import pytest

from cowstore.layers import pax
from cowstore.layers.headers import Entry, parse
from cowstore.layers.limits import Malformed
from tests.unit.layers.archives import block, records


def entry() -> Entry:
    return parse(block(b"name"), 0)


def test_records_of_any_bytes() -> None:
    """TA-25."""
    pairs = [
        (b"path", bytes(range(1, 256))),
        (b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\xff\xfe\0\n=\n"),
        (b"comment", b""),
    ]
    assert pax.records(records(pairs)) == pairs


@pytest.mark.parametrize("length", range(1, 120))
def test_record_whose_length_counts_its_own_digits(length: int) -> None:
    pairs = [(b"k", b"v" * length)]
    assert pax.records(records(pairs)) == pairs


@pytest.mark.parametrize(
    "data",
    [
        b"path=x\n",
        b"9 path=x\n"[:-1],
        b"11 path=x\n",
        b"8 path=x\n",
        b"1 \n",
        b"0 a=b\n",
        b"-6 a=b\n",
        b"99999999999999999999 a=b\n",
        b"6 ab=\n\n",
        b"6 abc\n",
        b"5 =b\n",
        b"6 a=b\n\0\0\0",
        b"6\ta=b\n",
        b" 6 a=b\n",
        b"+6 a=b\n",
    ],
)
def test_broken_records(data: bytes) -> None:
    with pytest.raises(Malformed):
        pax.records(data)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1700000000.123456789", 1700000000_123456789),
        (b"1700000000", 1700000000_000000000),
        (b"1700000000.1", 1700000000_100000000),
        (b"1700000000.1234567899", 1700000000_123456789),
        (b"-1.5", -1_500000000),
        (b"-0.000000001", -1),
        (b"0", 0),
        (b"5.", 5_000000000),
    ],
)
def test_time(value: bytes, expected: int) -> None:
    assert pax.time_ns(value) == expected


@pytest.mark.parametrize("value", [b"", b"x", b"1e5", b"1,5", b"+1", b".5", b"--1", b"1.5.5", b"9" * 20, b" 1", b"1_0"])
def test_time_that_is_none(value: bytes) -> None:
    with pytest.raises(Malformed):
        pax.time_ns(value)


def test_overrules_the_header() -> None:
    found = entry()
    pax.apply(
        found,
        {
            b"path": b"other",
            b"linkpath": b"target",
            b"size": b"8589934592",
            b"uid": b"2100000000",
            b"gid": b"4294967294",
            b"mtime": b"-1.25",
            b"hdrcharset": b"BINARY",
            b"uname": b"\xff",
            b"gname": b"x",
            b"SCHILY.dev": b"nonsense",
        },
    )
    assert (found.name, found.link, found.stored, found.uid, found.gid) == (
        b"other",
        b"target",
        1 << 33,
        2100000000,
        4294967294,
    )
    assert found.mtime_ns == -1_250_000_000


def test_empty_values_leave_the_header() -> None:
    found = entry()
    pax.apply(found, {b"path": b"", b"uid": b"", b"gid": b"", b"mtime": b"", b"size": b"", b"linkpath": b""})
    assert found.name == b"name"
    assert found.mtime_ns == 10**18


@pytest.mark.parametrize("key", [b"uid", b"gid", b"size", b"mtime"])
@pytest.mark.parametrize("value", [b"-5x", b"0x10", b"1 ", b"9" * 30, b"\xff"])
def test_impossible_values(key: bytes, value: bytes) -> None:
    with pytest.raises(Malformed):
        pax.apply(entry(), {key: value})


def test_xattrs_in_both_spellings() -> None:
    found = entry()
    pax.apply(
        found,
        {
            b"LIBARCHIVE.xattr.user.a%3Db": b"AP8K",
            b"SCHILY.xattr.user.k": b"\0\n=\xff",
            b"LIBARCHIVE.xattr.user.k": b"b3RoZXI",
            b"SCHILY.xattr.user.p%25%3D": b"",
        },
    )
    assert found.xattrs == {b"user.k": b"\0\n=\xff", b"user.a=b": b"\0\xff\n", b"user.p%=": b""}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"SCHILY.xattr.", b"x"),
        (b"SCHILY.xattr.user." + b"n" * 255, b"x"),
        (b"SCHILY.xattr.user.a\0b", b"x"),
        (b"SCHILY.xattr.user.a", b"x" * 65537),
        (b"LIBARCHIVE.xattr.user.a", b"!"),
    ],
)
def test_impossible_xattrs(key: bytes, value: bytes) -> None:
    with pytest.raises(Malformed):
        pax.apply(entry(), {key: value})


@pytest.mark.parametrize("key", [b"path", b"linkpath", b"size", b"GNU.sparse.size"])
def test_global_records_of_one_entry(key: bytes) -> None:
    with pytest.raises(Malformed, match="global"):
        pax.check_global([(key, b"1")])


def test_acl_given_twice() -> None:
    """As GNU tar does when it is asked for all attributes and for ACLs."""
    text = b"user::rwx,user:lisa:r--,group::r-x,mask::r-x,other::r-x"
    found = entry()
    pax.apply(found, {b"SCHILY.acl.access": text, b"SCHILY.xattr.system.posix_acl_access": b"binary"})
    assert found.acls is None
    assert found.xattrs == {b"system.posix_acl_access": b"binary"}
    found = entry()
    pax.apply(found, {b"SCHILY.acl.access": text, b"SCHILY.xattr.user.k": b"v"})
    assert found.acls == [(b"system.posix_acl_access", text)]
