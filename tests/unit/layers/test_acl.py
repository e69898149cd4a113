from __future__ import annotations

import struct

import pytest

from cowstore.layers import acl
from cowstore.layers.limits import Malformed


def binary(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 0xFFFFFFFF
FULL = binary((1, 7, NOBODY), (2, 6, 5), (2, 4, 1000), (4, 5, NOBODY), (8, 4, 7), (16, 7, NOBODY), (32, 0, NOBODY))


@pytest.mark.parametrize(
    "text",
    [
        b"user::rwx,user:1000:r--,user:5:rw-,group::r-x,group:7:r--,mask::rwx,other::---",
        b"user::rwx\nuser:1000:r--\nuser:5:rw-\ngroup::r-x\ngroup:7:r--\nmask::rwx\nother::---\n",
        b"other::---,mask::rwx,group:7:r--,group::r-x,user:5:rw-,user:1000:r--,user::rwx",
        b"user::rwx,user:lisa:r--:1000,user:x:rw-:5,group::r-x,group:g:r--:7,mask::rwx,other::---",
        b"u::rwx,u:1000:r--,u:5:rw-,g::r-x,g:7:r--,m:rwx,o:---",
        b"user::rwx\t#effective:rwx\nuser:1000:r-- #x\nuser:5:rw-\ngroup::r-x\ngroup:7:r--\nmask::rwx\nother::---",
    ],
)
def test_spellings(text: bytes) -> None:
    assert acl.from_text(text, None) == FULL


def test_names_need_somebody_to_ask() -> None:
    text = b"user::rwx,user:lisa:r--,group::r-x,mask::r-x,other::r-x"
    assert acl.from_text(text, None) is None
    assert acl.from_text(text, lambda _kind, _name: None) is None
    asked = acl.from_text(text, lambda kind, name: {("user", b"lisa"): 12}[kind, name])
    assert asked == binary((1, 7, NOBODY), (2, 4, 12), (4, 5, NOBODY), (16, 5, NOBODY), (32, 5, NOBODY))


@pytest.mark.parametrize(
    "text",
    [
        b"junk",
        b"user::rwx",
        b"user::rwx,group::r-x,other::r-x,other::r-x",
        b"user::rwx,group::r-x,user:5:rwx,other::r-x",
        b"user::rwz,group::r-x,other::r-x",
        b"user::rwx,group::r-x,other:5:r-x",
        b"user::rwx,group::r-x,mask:5:r-x,other::r-x",
        b"user::rwx,user:4294967295:r--,group::r-x,mask::r-x,other::r-x",
        b"user::rwx,user:99999999999:r--,group::r-x,mask::r-x,other::r-x",
        b"user::rwx,user:lisa:r--:no,group::r-x,mask::r-x,other::r-x",
        b"user::rwx,group::r-x,other::r-x,beep::r-x",
        b"user::rwx:1:2:3,group::r-x,other::r-x",
    ],
)
def test_what_is_none(text: bytes) -> None:
    with pytest.raises(Malformed):
        acl.from_text(text, None)
