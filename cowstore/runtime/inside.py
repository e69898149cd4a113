"""The root under construction, as process 1 sees it: descriptors below it, and the walk that makes what is missing.

No path of the root is ever given to a call that resolves it in any other way than below the root: a symbolic link of an
image leads to another place of the image, never to one of the machine.
"""

from __future__ import annotations

import errno
import os
import stat

from cowstore._linux._call import oserror
from cowstore._linux.fd import Descriptor
from cowstore._linux.files import Resolve, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd
    from cowstore.runtime.cgroups import Groups

_MAX_LINKS = 40
_BELOW = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS


class Inside:
    """What the steps of a plan share.

    :ivar root: directory descriptor of the root, -1 until it is realised.
    :ivar held: the same for the launcher to read, or None.
    :ivar tree: further descriptors that one step leaves to another.
    :ivar entered: the root is the root of this process.
    :ivar chrooted: it is so by chroot(2) only, and the program must not be able to leave it.
    :ivar groups: the container's control groups, in the launcher. :ivar entrances: descriptors through which a process
        joins them. :ivar oom_score: what to give the program back of it.
    :ivar hostname: name of the machine outside.
    :ivar status: pipe to the launcher. :ivar control: socket from the launcher.
    :ivar program: number of the program's process, once process 1 has started it without a copy of itself; or None.
    :ivar terminal: the program's end of its terminal, or None.
    :ivar helper: program that connects the network, or nothing. :ivar bundle: directory of a bundle for another
        runtime, or nothing.
    :ivar home: directory of the user that the program runs as.
    :ivar warnings: lines for the launcher to show.
    """

    def __init__(self) -> None:
        self._root: Descriptor | None = None
        self.held: Descriptor | None = None
        self.tree: dict[str, Descriptor] = {}
        self.entered = False
        self.chrooted = False
        self.warnings: list[str] = []
        self.helper = self.bundle = ""
        self.home = "/root"
        self.groups: Groups | None = None
        self.entrances: list[int] = []
        self.oom_score = b""
        self.hostname = ""
        self.status = self.control = -1
        self.program: int | None = None
        self.terminal: Descriptor | None = None

    @property
    def root(self) -> int:
        """Directory descriptor of the root."""
        assert self._root is not None, "no step needs the root before it is realised"
        return self._root.fileno()

    def take_root(self, root: Descriptor) -> None:
        """Own the root from now on."""
        self._root = root

    def let_go(self) -> None:
        """Close every descriptor of the set-up: the program starts without one."""
        for held in self.tree.values():
            held.close()
        self.tree.clear()
        if self._root is not None:
            self._root.close()

    def find(self, path: str, flags: int = os.O_PATH) -> Descriptor | None:
        """Open *path* below the root, following the root's own links; None where there is nothing."""
        try:
            return Descriptor(openat2(self.root, path, flags | os.O_CLOEXEC, 0, _BELOW))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def plain_directory(self, name: str) -> Descriptor:
        """Open the directory *name* at the top of the root, making it where it is missing.

        :raises OSError: ELOOP, it is a symbolic link: what belongs there must not land somewhere else; ENOTDIR.
        """
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return Descriptor(openat2(self.root, name, flags, 0, _BELOW | Resolve.NO_SYMLINKS))
        except FileNotFoundError:
            _make(self.root, name, directory=True)
            return Descriptor(openat2(self.root, name, flags, 0, _BELOW | Resolve.NO_SYMLINKS))

    def place(self, path: str, *, directory: bool) -> Descriptor:
        """Open *path* below the root as a place to mount on, making what is missing of it.

        Links are followed below the root, also a last one that leads to nothing: what it names is made, and the link
        stays.

        :param directory: what to make in the end, a directory or an empty file.
        :raises OSError: ELOOP, ENOTDIR, EROFS (something is missing, and the root is read-only).
        """
        found = self.find(path)
        return found if found is not None else _walk(self.root, path, directory=directory)


def _walk(root: int, path: str, *, directory: bool) -> Descriptor:
    """Go down *path* one name at a time as the kernel would, making what is missing."""
    above: list[Descriptor] = [Descriptor(os.dup(root))]
    names = [name for name in reversed(path.split("/")) if name not in {"", "."}]
    links = 0
    try:
        while names:
            name = names.pop()
            here = above[-1].fileno()
            if name == "..":
                if len(above) > 1:
                    above.pop().close()
                continue
            entry = _entry(here, name, directory=directory or bool(names))
            if not stat.S_ISLNK(os.fstat(entry.fileno()).st_mode):
                above.append(entry)
                continue
            links += 1
            target = os.readlink("", dir_fd=entry.fileno())
            entry.close()
            if links > _MAX_LINKS:
                raise oserror("openat2(2)", path, code=errno.ELOOP)
            if target.startswith("/"):
                while len(above) > 1:
                    above.pop().close()
            names.extend(part for part in reversed(target.split("/")) if part not in {"", "."})
        return above.pop()
    finally:
        for held in above:
            held.close()


def _entry(here: int, name: str, *, directory: bool) -> Descriptor:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return Descriptor(os.open(name, flags, dir_fd=here))
    except FileNotFoundError:
        _make(here, name, directory=directory)
        return Descriptor(os.open(name, flags, dir_fd=here))


def _make(here: int, name: str, *, directory: bool) -> None:
    """Make a mount point, and leave the time of the directory it is in: nothing of the image's own has changed."""
    before = os.fstat(here)
    if directory:
        os.mkdir(name, 0o755, dir_fd=here)
    else:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=here))
    os.utime(".", ns=(before.st_atime_ns, before.st_mtime_ns), dir_fd=here)


def is_directory(fd: Fd) -> bool:
    """Tell whether a descriptor, O_PATH or not, is of a directory."""
    return stat.S_ISDIR(os.fstat(fd if isinstance(fd, int) else fd.fileno()).st_mode)
