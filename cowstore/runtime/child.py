"""The launcher of ``cowstore.run``, a process of its own; run by its path, with ``-I -S``.

    child.py REQUEST RESULT [KEEP…]

reads a packed spec from the pipe REQUEST up to its length, runs it, and writes one message about the outcome to the
pipe RESULT. REQUEST stays open as long as the process lives that this is for; when it ends, so does the container.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run what is asked for."""
    import gc

    gc.disable()
    request, result, *keep = map(int, sys.argv[1:])
    # The package this file is part of, whether installed or not; behind the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from cowstore.errors import CowstoreError
    from cowstore.runtime.launcher import Container
    from cowstore.runtime.transport import unpack

    for fd in (request, result, *keep):
        os.set_inheritable(fd, False)
    length = int.from_bytes(_read(request, 8), "little")
    try:
        spec, more = unpack(_read(request, length))
        timeout_s = more["timeout_s"]
        outcome = Container(spec, keep=keep).supervise(
            timeout_s=timeout_s if isinstance(timeout_s, float) else None, owner=request
        )
        answer = outcome.summary()
    except OSError as error:
        from cowstore.runtime.init import explain

        answer = {"failure": f"cannot start a container: {explain(error)}"}
    except CowstoreError as error:
        answer = {"failure": str(error)}
    import marshal

    try:
        os.write(result, marshal.dumps(answer))
    except BrokenPipeError:
        pass  # whom this was for is gone
    os._exit(0)


def _read(fd: int, length: int) -> bytes:
    content = b""
    while len(content) < length:
        part = os.read(fd, length - len(content))
        if not part:
            os._exit(1)  # whom this is for is gone already
        content += part
    return content


if __name__ == "__main__":
    main()
