from __future__ import annotations

import pytest

from cowstore.layers.claims import Claims, Fingerprints
from cowstore.layers.limits import Malformed
from cowstore.layers.names import join, split, split_target


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a", (b"", b"a")),
        (b"a/b/c", (b"a/b", b"c")),
        (b"/etc/a", (b"etc", b"a")),
        (b"///etc///a//", (b"etc", b"a")),
        (b"./g", (b"", b"g")),
        (b"././a/./b", (b"a", b"b")),
        (b"b/../c", (b"", b"c")),
        (b"a/b/..", (b"", b"a")),
        (b"a/.hidden", (b"a", b".hidden")),
        (b".hidden/x", (b".hidden", b"x")),
        (b"..a/b", (b"..a", b"b")),
        (b"a/...", (b"a", b"...")),
        (b"./", (b"", b"")),
        (b".", (b"", b"")),
        (b"/", (b"", b"")),
        (b"a/..", (b"", b"")),
        (b"dir/", (b"", b"dir")),
        (b"\xff\n\\/ ", (b"\xff\n\\", b" ")),
    ],
)
def test_split(name: bytes, expected: tuple[bytes, bytes]) -> None:
    """TA-02."""
    assert split(name) == expected


@pytest.mark.parametrize("name", [b"..", b"../d", b"e/../../f", b"/../x", b"a/../../a", b"./..", b""])
def test_names_that_lead_out(name: bytes) -> None:
    """TA-02."""
    with pytest.raises(Malformed):
        split(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"../../etc/passwd", (b"etc", b"passwd")),
        (b"/a/../b", (b"", b"b")),
        (b"a/b", (b"a", b"b")),
        (b"..", (b"", b"")),
        (b"", (b"", b"")),
    ],
)
def test_targets_stop_at_the_root(name: bytes, expected: tuple[bytes, bytes]) -> None:
    """TA-04."""
    assert split_target(name) == expected


def test_join() -> None:
    assert join(b"", b"a") == b"a"
    assert join(b"a", b"b") == b"a/b"


def test_fingerprints_are_a_set() -> None:
    found = Fingerprints()
    names = [b"dir%d/file%d" % (number % 97, number) for number in range(20_000)]
    for name in names:
        assert name not in found
        found.add(name)
        found.add(name)
    assert all(name in found for name in names)
    assert not any(b"other/" + name in found for name in names)


def test_claims() -> None:
    claims = Claims()
    claims.made.add(b"a/b")
    claims.passed.add(b"a")
    assert claims.holds(b"a")
    assert claims.holds(b"a/b")
    assert not claims.holds(b"b")
