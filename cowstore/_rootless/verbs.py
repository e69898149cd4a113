"""Verbs that need a mount, done in the helper for a process that may not mount."""

from __future__ import annotations

import functools

from cowstore._rootless import namespace
from cowstore._rootless.jobs import Job, OpenDriver, OpenStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    from cowstore._core import Core
    from cowstore.driver import Driver

    P = ParamSpec("P")
    T = TypeVar("T")

_refused = False
"""Whether this machine was found to give its users no namespaces."""


def in_namespace(
    *, writes: tuple[str | int, ...] = (), only_for_ids: bool = False
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have a function of a store's inside done in the helper, where this process may not mount.

    A driver whose trees can be had without a mount does without where there are no namespaces.

    :param writes: names or numbers of arguments that are file objects to write to.
    :param only_for_ids: it needs no mount, and goes elsewhere only for the further ids that a user may have there.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            cores: list[Any] = [value for value in args if hasattr(value, "confined")]
            if not any(core.confined for core in cores) or (only_for_ids and not _has_ids()):
                return function(*args, **kwargs)
            job = Job(
                module=function.__module__,
                function=function.__name__,
                arguments=tuple(_stands_for(value) for value in args),
                named=kwargs,
                writes=writes,
            )
            direct = only_for_ids or all(not core.confined or core.driver.is_plain for core in cores)
            made: T = remotely(job, functools.partial(function, *args, **kwargs) if direct else None)
            return made

        return wrapped

    return decorate


def remotely(job: Job, direct: Callable[[], Any] | None) -> Any:
    """Have a job done in the helper; *direct* is what can be done without, where there are no namespaces."""
    global _refused
    from cowstore._rootless.calls import call

    if direct is not None and _refused:
        return direct()
    try:
        return call(job)
    except Exception as error:
        if direct is None or not namespace.is_refusal(error):
            raise
        _refused = True
    return direct()


def _has_ids() -> bool:
    from cowstore._rootless.ids import has_ranges

    return has_ranges()


def _stands_for(value: Any) -> Any:
    """Return what can be sent in the place of an argument."""
    return store_of(value) if hasattr(value, "confined") else value


def store_of(core: Core) -> OpenStore:
    """Return what the helper opens the same store by."""
    from dataclasses import fields, is_dataclass

    options: Any = core.options
    assert is_dataclass(options), "every driver's are"
    changed = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if getattr(options, field.name) != field.default
    }
    return OpenStore(root=core.root, options=changed, volatile=core.volatile, read_only=core.read_only)


def driver_of(driver: Driver) -> OpenDriver:
    """Return what the helper makes the same driver by."""
    return OpenDriver(
        name=driver.name,
        directory=driver.directory,
        options=driver.options,
        volatile=driver.volatile,
        read_only=driver.read_only,
    )


def probe(driver: type[Driver], directory: str, options: object) -> None:
    """Try a driver, in the helper where this process may not mount and the driver is one for ordinary users.

    :raises DriverUnavailable: with everything that is missing.
    """
    import os

    if os.geteuid() == 0 or namespace.may_mount() or not driver.capabilities.rootless:
        driver.probe(directory, options)
        return
    from cowstore._rootless.calls import call
    from cowstore.errors import DriverUnavailable, Unsupported

    try:
        call(Job(module="cowstore._rootless.verbs", function="probe_here", arguments=(driver.name, directory, options)))
    except Unsupported as error:
        if not namespace.is_refusal(error):
            raise
        try:
            driver.probe(directory, options)
        except DriverUnavailable:
            raise DriverUnavailable(
                f"the {driver.name} driver cannot work in {directory} for an ordinary user: {error}",
                driver=driver.name,
                missing=[str(error)],
            ) from error


def probe_here(name: str, directory: str, options: object) -> None:
    """Try a driver in this process."""
    from cowstore.drivers import load

    load(name).probe(directory, options)
