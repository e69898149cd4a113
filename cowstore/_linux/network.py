"""Network interfaces: only bringing one up, as the loopback of a new network namespace needs.

Source: netdevice(7); include/uapi/linux/if.h, include/uapi/linux/sockios.h.
"""

from __future__ import annotations

import errno
import os
import struct
from ctypes import c_int
from fcntl import ioctl

from cowstore._linux._call import bind, oserror, retry
from cowstore._linux.fd import Descriptor

IFF_UP = 0x1
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
#: struct ifreq: a name of 16 bytes, NUL included, and a union of 24, here short flags.
IFREQ = struct.Struct("16sh22x")

_AF_UNIX = 1
_SOCK_DGRAM = 2
_SOCK_CLOEXEC = os.O_CLOEXEC

_socket = bind("socket", c_int, c_int, c_int)


def interface_up(name: str | bytes) -> None:
    """Bring a network interface of this network namespace up; nothing changes where it is.

    Args:
        name: at most 15 bytes.

    Raises:
        OSError: ENODEV, there is none of that name; EPERM, CAP_NET_ADMIN is missing.

    Source: netdevice(7), SIOCSIFFLAGS.
    """
    encoded = os.fsencode(name)
    if not 0 < len(encoded) < 16 or b"\0" in encoded:
        raise oserror("ioctl(2)", name, detail="no name of an interface", code=errno.ENODEV)
    # Any kind of socket will do, and this kind is in every kernel. The socket module would cost more than all the rest.
    number = retry(_socket, _AF_UNIX, _SOCK_DGRAM | _SOCK_CLOEXEC, 0)
    if number == -1:
        raise oserror("socket(2)", name)
    with Descriptor(number) as control:
        try:
            request = ioctl(control.fileno(), SIOCGIFFLAGS, IFREQ.pack(encoded, 0))
            flags = IFREQ.unpack(request)[1]
            if not flags & IFF_UP:
                ioctl(control.fileno(), SIOCSIFFLAGS, IFREQ.pack(encoded, flags | IFF_UP))
        except OSError as error:
            error.filename = name
            error.add_note("ioctl(2) SIOCSIFFLAGS")
            raise
