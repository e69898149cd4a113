"""What a launcher tells process 1, and process 1 the program: bytes and open files, over a socket between them."""

from __future__ import annotations

import _socket  # the C module alone: all that socket adds costs more than many a whole run
import array
import marshal
import struct

from cowstore._frozen import frozen

_SIZES = struct.Struct("<II")
_MOST = 200
"""Descriptors in one message. Source: SCM_MAX_FD, include/net/scm.h."""
_ROOM = _socket.CMSG_SPACE(_MOST * array.array("i").itemsize)

ENTRANCE, KEPT = "entrance", "kept"
"""Names of descriptors in an order: a file through which a process joins a group; one that is only held. Digits are
standard streams; all others are trees."""


@frozen
class Order:
    """What a process that was made ahead is to do.

    :ivar spec: a spec, packed. :ivar hostname: name of the machine outside. :ivar files: descriptors with their names.
    """

    spec: bytes
    hostname: str
    files: tuple[tuple[str, int], ...]


def pair() -> tuple[_socket.socket, _socket.socket]:
    """Return the two ends of a new connection; neither survives an exec."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)


def send(channel: _socket.socket, order: Order) -> None:
    """Send an order; a process that has ended is none of the sender's business, it is noticed elsewhere."""
    head = marshal.dumps((order.hostname, tuple(name for name, _ in order.files)))
    content = _SIZES.pack(len(head), len(order.spec)) + head + order.spec
    batches = [order.files[first : first + _MOST] for first in range(0, len(order.files), _MOST)] or [()]
    try:
        for number, batch in enumerate(batches, 1):
            rights = array.array("i", [fd for _, fd in batch])
            ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if batch else []
            # Descriptors travel with a byte at least.
            part = content if number == len(batches) else content[:1]
            content = content[channel.sendmsg([part], ancillary) :]
        while content:
            content = content[channel.send(content) :]
    except (BrokenPipeError, ConnectionResetError):
        return


def receive(channel: _socket.socket) -> Order | None:
    """Wait for an order; None if the sender has ended. What is sent after it is not touched."""
    fds = array.array("i")
    sizes = _read(channel, _SIZES.size, fds)
    if len(sizes) < _SIZES.size:
        return None
    head_size, size = _SIZES.unpack(sizes)
    content = _read(channel, head_size + size, fds)
    if len(content) < head_size + size:
        return None
    hostname, names = marshal.loads(content[:head_size])  # noqa: S302  # from our own parent
    return Order(spec=content[head_size:], hostname=hostname, files=tuple(zip(names, fds, strict=True)))


def _read(channel: _socket.socket, size: int, fds: array.array[int]) -> bytes:
    """Read so many bytes, or all that there are before the sender ends; descriptors go to *fds*."""
    content = b""
    while len(content) < size:
        part, ancillary, _, _ = channel.recvmsg(size - len(content), _ROOM, _socket.MSG_CMSG_CLOEXEC)
        if not part:
            break
        content += part
        for _, _, data in ancillary:
            fds.frombytes(data)
    return content
