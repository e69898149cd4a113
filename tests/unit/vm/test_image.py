"""What the kernel tier reads from a kernel image, and where it looks for modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm import image, initramfs

if TYPE_CHECKING:
    from pathlib import Path


def _image(path: Path, version: bytes = b"6.1.99-mine (me@here) #1") -> Path:
    head = bytearray(0x1000)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x300).to_bytes(2, "little")
    head[0x500 : 0x500 + len(version)] = version
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head)
    return path


def _modules(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "modules.dep").write_text("kernel/fs/9p/9p.ko:\n")
    (path / "modules.builtin").write_text("")
    return path


def test_the_release_is_in_the_image(tmp_path: Path) -> None:
    assert image.release(_image(tmp_path / "bzImage")) == "6.1.99-mine"
    (tmp_path / "other").write_bytes(b"\x7fELF" + bytes(1000))
    assert image.release(tmp_path / "other") is None


@pytest.mark.parametrize("place", ["given", "given/6.1.99-mine", "given/lib/modules/6.1.99-mine"])
def test_modules_are_found_where_they_were_said_to_be(place: str, tmp_path: Path) -> None:
    expected = _modules(tmp_path / place)
    assert image.modules(_image(tmp_path / "bzImage"), str(tmp_path / "given")) == expected


def test_modules_are_found_beside_the_image(tmp_path: Path) -> None:
    expected = _modules(tmp_path / "lib/modules/6.1.99-mine")
    assert image.modules(_image(tmp_path / "boot/vmlinuz-6.1.99-mine"), None) == expected


def test_none_were_given_and_there_are_none(tmp_path: Path) -> None:
    assert image.modules(_image(tmp_path / "bzImage"), None) is None


def test_those_that_were_given_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"modules\.dep"):
        image.modules(_image(tmp_path / "bzImage"), str(tmp_path))


def test_without_modules_both_ways_to_share_are_offered(tmp_path: Path) -> None:
    assert initramfs.root_types(initramfs.BuiltIn()) == ["virtiofs", "9p"]
    assert initramfs.root_types(initramfs.Modules(_modules(tmp_path / "modules"))) == ["9p"]
