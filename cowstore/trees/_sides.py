"""What is compared: a tree as the comparison walks it, in step with another."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from cowstore.trees._descent import Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["PlainSide", "Side"]


class Side(ABC):
    """A tree, and a place in it. Names that vanish while it is read are not there."""

    complete = True
    """Whether :meth:`names` lists all of the directory; a name it leaves out is then as in the tree compared with."""

    @abstractmethod
    def names(self) -> list[str]:
        """List the names of this directory, in any order."""

    @abstractmethod
    def find(self, name: str) -> os.stat_result | None:
        """Tell what is there under a name, or None."""

    @abstractmethod
    def where(self, name: str) -> int:
        """Return the descriptor of a directory that has *name* in it, as :meth:`find` saw it."""

    @abstractmethod
    def here(self) -> int:
        """Return a descriptor of this directory itself, with the metadata it has in the tree."""

    @abstractmethod
    def enter(self, name: str) -> None:
        """Go down into a directory; after an error nothing has moved."""

    @abstractmethod
    def leave(self) -> None:
        """Go back up."""

    @abstractmethod
    def close(self) -> None:
        """Close all descriptors."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class PlainSide(Side):
    """A tree that lies at one directory."""

    def __init__(self, root_fd: int) -> None:
        self._place = Descent(root_fd)

    def names(self) -> list[str]:
        """List the names of this directory."""
        return os.listdir(self._place.fd)

    def find(self, name: str) -> os.stat_result | None:
        """Tell what is there under a name, or None."""
        try:
            return os.stat(name, dir_fd=self._place.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def where(self, name: str) -> int:  # noqa: ARG002  (all names are in one place)
        """Return this directory."""
        return self._place.fd

    def here(self) -> int:
        """Return this directory."""
        return self._place.fd

    def enter(self, name: str) -> None:
        """Go down into a directory."""
        self._place.enter(name)

    def leave(self) -> None:
        """Go back up."""
        self._place.leave()

    def close(self) -> None:
        """Close all descriptors."""
        self._place.close()
