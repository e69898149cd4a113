"""Names in an archive: made relative to the root, by the text alone."""

from __future__ import annotations

from cowstore.layers.limits import Malformed


def split(name: bytes) -> tuple[bytes, bytes]:
    """Cut an entry's name into its directory and its last part.

    Leading, double and trailing slashes and "." go; ".." takes away the part before it.

    Returns:
        the directory relative to the root, b"" for the root, and the last part, b"" when the name is the root itself.

    Raises:
        Malformed: the name is empty, or leads out of the root.
    """
    if not name:
        raise Malformed("it has no name")
    if name.startswith(b"./"):
        name = name[2:]
    if name[-1:] == b"/":
        name = name[:-1]
    # Most names are in order; "/." would also be that of a hidden file, which the long way treats as well.
    if name and name[0] not in b"./" and b"/." not in name and b"//" not in name:
        parent, _, leaf = name.rpartition(b"/")
        return parent, leaf
    return _split(name)


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Do the same part by part."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise Malformed("its name leads out of the root")
            parts.pop()
        elif part not in {b"", b"."}:
            parts.append(part)
    return b"/".join(parts[:-1]), parts[-1] if parts else b""


def split_target(name: bytes) -> tuple[bytes, bytes]:
    """Cut the target of a hard link, which is relative to the root; ".." stops there, as it does in "/"."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in {b"", b"."}:
            parts.append(part)
    return b"/".join(parts[:-1]), parts[-1] if parts else b""


def join(directory: bytes, name: bytes) -> bytes:
    """Put a name behind a directory, of which b"" is the root."""
    return directory + b"/" + name if directory else name
