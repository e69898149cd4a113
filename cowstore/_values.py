"""What may be given: keys, labels and sizes, refused here with the reason before anything is touched."""

from __future__ import annotations

from cowstore.errors import InvalidArgument
from cowstore.model import MAX_KEY_LENGTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def check_key(key: object, argument: str = "key") -> str:
    """Return *key* if it can be one: non-empty text of up to 255 characters without NUL.

    :raises InvalidArgument: it cannot.
    """
    if not isinstance(key, str):
        raise InvalidArgument(f"the {argument} must be a string, not {type(key).__name__}", argument=argument)
    if not key:
        raise InvalidArgument(f"the {argument} is empty; give the snapshot a name", argument=argument)
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidArgument(
            f"the {argument} has {len(key)} characters; {MAX_KEY_LENGTH} is the most", argument=argument
        )
    if "\0" in key:
        raise InvalidArgument(f"the {argument} {key!r} holds a NUL character; leave it out", argument=argument)
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                f"the {argument} {key!r} is not text that UTF-8 can hold", argument=argument
            ) from error
    return key


def check_labels(labels: Mapping[str, str] | Mapping[object, object] | None) -> dict[str, str]:
    """Return *labels* if all names and values are text, and the names are not empty.

    :raises InvalidArgument: they are not.
    """
    checked: dict[str, str] = {}
    for name, value in (labels or {}).items():
        if not isinstance(name, str) or not isinstance(value, str) or not name:
            raise InvalidArgument(
                f"the label {name!r}={value!r} must be a non-empty name and a value, both text", argument="labels"
            )
        try:
            (name + value).encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                f"the label {name!r}={value!r} is not text that UTF-8 can hold", argument="labels"
            ) from error
        checked[name] = value
    return checked


def check_size(size_bytes: object) -> int | None:
    """Return *size_bytes* if it is a positive number of bytes or None.

    :raises InvalidArgument: it is not.
    """
    if size_bytes is None:
        return None
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or size_bytes <= 0:
        raise InvalidArgument(f"the size must be a positive number of bytes, not {size_bytes!r}", argument="size_bytes")
    if size_bytes >= 1 << 63:
        raise InvalidArgument(f"the size {size_bytes} is beyond what any file system holds", argument="size_bytes")
    return size_bytes
