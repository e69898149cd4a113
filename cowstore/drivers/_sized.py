"""What the drivers have in common whose ids are directories that can be limited in size: overlay and copy.

How, and what that puts beside the directories, is in :mod:`cowstore.drivers._limits` (project quotas) and
:mod:`cowstore.drivers._image` (an image file for each id). Neither is loaded before a size is asked for.
"""

from __future__ import annotations

import enum
from contextlib import contextmanager

from cowstore._frozen import frozen
from cowstore.drivers._directories import DirectoryDriver, measured
from cowstore.errors import Unsupported
from cowstore.model import Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, ClassVar

    from cowstore._linux.loop import LoopDevice
    from cowstore.drivers._image import Images
    from cowstore.model import Mount
    from cowstore.results import FindingKind, Problem, Usage

__all__ = ["IMAGES", "Backing", "Options", "SizedDriver"]

IMAGES = "images"
"""Name of what tells that ids of the driver may be images. Written down here too, so that a look costs no import."""

_QUOTA = "quota"


class Backing(enum.StrEnum):
    """What a snapshot of limited size is."""

    DIRECTORY = "directory"
    IMAGE = "image"


@frozen
class Options:
    """Options of the drivers overlay and copy.

    :ivar backing: what a snapshot of limited size is: a ``directory``, limited by a project quota where the file
        system has them; or an ``image``, a file with an ext4 of that size. Others are directories.
    """

    backing: Backing = Backing.DIRECTORY


class _Asked(Capabilities):
    """Capabilities of which ``size_limits`` is found out when somebody asks: no run on an existing store does."""

    __slots__ = ()

    @property
    def size_limits(self) -> bool:
        """Whether sizes are enforced in this store."""
        found: bool | Callable[[], bool] = _SLOT.__get__(self)
        if not isinstance(found, bool):
            found = found()
            _SLOT.__set__(self, found)
        return found

    @size_limits.setter
    def size_limits(self, value: bool) -> None:
        _SLOT.__set__(self, value)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy: what is found out goes along."""
        return _plain, tuple(getattr(self, name) for name in _NAMES)


_SLOT = Capabilities.__dict__["size_limits"]
_NAMES: tuple[str, ...] = Capabilities.__dict__["__slots__"]
# What a data class is asked of itself is what the one says that this is in place of.
_Asked.__slots__ = _NAMES  # type: ignore[assignment]
_Asked.__annotations__ = Capabilities.__annotations__
_Asked.__qualname__ = _Asked.__name__ = Capabilities.__name__


def _plain(*values: object) -> Capabilities:
    given: dict[str, Any] = dict(zip(_NAMES, values, strict=True))
    return Capabilities(**given)


class SizedDriver(DirectoryDriver):
    """A driver whose ids are directories, and may be limited in size."""

    Options: ClassVar[type] = Options
    own_names = frozenset((IMAGES,))

    def __init__(self, directory: str, options: object, *, volatile: bool = False, read_only: bool = False) -> None:
        """Open the driver's directory."""
        super().__init__(directory, options, volatile=volatile, read_only=read_only)
        self._images: Images | None = None
        self.capabilities = self._asked(type(self).capabilities)

    def _asked(self, known: Capabilities) -> Capabilities:
        values: dict[str, Any] = {name: getattr(known, name) for name in _NAMES}
        values["size_limits"] = lambda: not self.read_only and self.why_no_sizes() is None
        return _Asked(**values)

    @property
    def images(self) -> Images:
        """The driver's images."""
        if self._images is None:
            from cowstore.drivers._image import Images

            self._images = Images(self.directory, self._fd, read_only=self.read_only)
        return self._images

    @property
    def makes_images(self) -> bool:
        """Whether a snapshot of limited size is to be an image."""
        return getattr(self.options, "backing", None) == Backing.IMAGE

    def may_have_images(self) -> bool:
        """Tell whether any id has ever been an image."""
        return self.has(IMAGES)

    def is_image(self, name: str) -> bool:
        """Tell whether an id is an image."""
        return self.has(IMAGES) and self.images.has(name)

    def why_no_sizes(self) -> str | None:
        """Say why sizes cannot be limited here; None where they can."""
        if self.makes_images:
            from cowstore.drivers._image import why_not

            return why_not()
        return self.why_no_quota()

    def why_no_quota(self) -> str | None:
        """Say why project quotas cannot limit sizes here; None where they can."""
        from cowstore.drivers._limits import why_not

        return why_not(self.directory)

    def check_size(self, id: int, size_bytes: int | None) -> None:
        """Refuse a size that cannot be enforced, before anything is made."""
        if size_bytes is not None and (reason := self.why_no_sizes()) is not None:
            raise Unsupported(
                f"cannot limit snapshot {id} to {size_bytes} bytes: {reason}; or leave the size out",
                feature="size_limits",
            )

    @contextmanager
    def sized(self, new: str, size_bytes: int) -> Iterator[str]:
        """Limit what is made for an id in the making in the length of the block; gives the directory to make it in."""
        if self.makes_images:
            with self.images.made(new, size_bytes) as root:
                yield root
            return
        from cowstore.drivers._limits import limited

        with limited(self._fd, new, size_bytes):
            yield new

    def resize(self, id: int, size_bytes: int) -> None:
        """Change the limit of *id*; an image can only grow."""
        try:
            if self.is_image(str(id)):
                self.images.resize(str(id), size_bytes)
                return
            if (reason := self.why_no_quota()) is not None:
                what = "it was made without a size, and is no image" if self.makes_images else reason
                raise Unsupported(
                    f"cannot limit snapshot {id} to {size_bytes} bytes: {what}; make another with a size",
                    feature="size_limits",
                )
            from cowstore.drivers._limits import resize

            resize(self._fd, str(id), size_bytes)
        except OSError as error:
            self.tell(error, f"set the size of snapshot {id}")
            raise

    def seal(self, id: int) -> None:
        """Write out what the id's tree is on."""
        if self.is_image(str(id)):
            self.images.seal(str(id), durable=not self.volatile)
            return
        super().seal(id)

    def remove(self, id: int) -> None:
        """Remove the directories of *id*, finished or not, with its limit and its image."""
        if self._images is not None:
            self._images.release(id)
        super().remove(id)

    def remove_directory(self, name: str) -> None:
        """Remove one directory below the driver's, all in it, and the limit it had."""
        self.forget_limit(name)
        super().remove_directory(name)

    def forget_limit(self, name: str) -> None:
        """Give the limit back that an id had."""
        if self.has(f"{name}/{_QUOTA}"):
            from cowstore.drivers._limits import forget

            forget(self._fd, name)

    def release(self, id: int) -> None:
        """Give up the loop devices that the mounts of *id* needed."""
        if self._images is not None:
            self._images.release(id)

    def close(self) -> None:
        """Close the driver's directory, and give up what is held."""
        if self._images is not None:
            self._images.close()
        super().close()

    @contextmanager
    def looked_at(self, id: int) -> Iterator[tuple[Mount, ...]]:
        """Describe the mounts of *id* for a look that ends with the block, and with it what they need."""
        held: list[LoopDevice] = []
        try:
            yield self.described(id, True, held)
        finally:
            for device in held:
                device.close()

    def described(
        self, id: int, read_only: bool, held: list[LoopDevice] | None, *, volatile: bool = False
    ) -> tuple[Mount, ...]:
        """Describe the mounts of *id*; what they need is put to *held*, or kept until it is released."""
        raise NotImplementedError

    def examine(self, id: int, parent: int | None, sealed: bool) -> Iterator[Problem]:
        """Look at the directory of *id*, and at its image."""
        yield from super().examine(id, parent, sealed)
        if sealed and self.is_image(str(id)) and not self.images.is_sealed(str(id)):
            from cowstore.results import FindingKind, Problem

            text = f"{self.directory}/{id}/image is committed, but writable"
            yield Problem(kind=FindingKind.NOT_SEALED, text=text, repair=True)

    def repair(self, id: int, parent: int | None, sealed: bool, kind: FindingKind) -> bool:
        """Mend the link to the parent, or take the right to write from an image."""
        if kind == "not-sealed":
            self.seal(id)
            return True
        return super().repair(id, parent, sealed, kind)

    def usage(self, id: int) -> Usage:
        """Tell what the file system counted of the id's own tree, or measure that."""
        from contextlib import ExitStack

        if self.has(f"{id}/{_QUOTA}"):
            from cowstore.drivers import _limits

            if (counted := _limits.usage(self._fd, str(id))) is not None:
                return counted
        if not self.is_image(str(id)):
            return super().usage(id)
        with ExitStack() as stack:
            return measured(self.images.tree(stack, str(id)))

    def unpack_directory(self, id: int) -> str | None:
        """Name the id's own directory tree; none of a limited one, which only a mount keeps to its limit."""
        limited = self.has(f"{id}/{_QUOTA}") or self.is_image(str(id))
        return None if limited else super().unpack_directory(id)
