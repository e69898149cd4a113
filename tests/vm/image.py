"""What is known of a kernel image from the file alone, and where its modules lie."""

from __future__ import annotations

from pathlib import Path

MAGIC_OFFSET = 0x202
VERSION_OFFSET = 0x20E
SETUP_BYTES = 0x200


def release(image: Path) -> str | None:
    """Return what ``uname -r`` will say, from the header of a bzImage; None where there is none.

    Source: Documentation/arch/x86/boot.rst, kernel_version.
    """
    with open(image, "rb") as file:
        head = file.read(1 << 16)
    if head[MAGIC_OFFSET : MAGIC_OFFSET + 4] != b"HdrS":
        return None
    start = int.from_bytes(head[VERSION_OFFSET : VERSION_OFFSET + 2], "little") + SETUP_BYTES
    words = head[start : head.find(b"\0", start)].split()
    return words[0].decode("ascii", "replace") if words else None


def modules(image: Path, given: str | None) -> Path | None:
    """Return the directory of an image's modules, the one with ``modules.dep``; None if all of it seems built in.

    :param given: named by the user: that directory itself, or what ``make modules_install`` was given.

    Raises LookupError when *given* has none.
    """
    name = release(image) or image.name.removeprefix("vmlinuz-")
    below = [Path(), Path(name), Path("lib/modules", name), Path("usr/lib/modules", name)]
    if given:
        tops, places = [Path(given).resolve()], below
    else:
        # Beside the image, as /boot/vmlinuz-X and /lib/modules/X lie, or where the image itself is among its modules.
        tops, places = [image.parent, image.parent.parent, Path("/")], below[2:]
        if (image.parent / "modules.dep").exists():
            return image.parent
    for top in tops:
        for place in places:
            if (top / place / "modules.dep").exists():
                return top / place
    if given:
        raise LookupError(f"there is no modules.dep in {given} (nor in lib/modules/{name} below it); run depmod")
    return None
