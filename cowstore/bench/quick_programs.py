"""The part of ``quick`` that is whole processes, as an installed user has them, by every interpreter there is."""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial

from cowstore.bench.installed import Installed, interpreters, minimal_root, process
from cowstore.bench.parts import Parts, took
from cowstore.bench.results import FLOOR
from cowstore.bench.timing import Found
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore.bench.parts import Part

_MIB = 1 << 20


class Programs(Parts):
    """Imports, runs on an existing base, runs from a program, and the memory of one."""

    def all(self) -> dict[str, Callable[[], Part]]:
        """Return the parts for each interpreter there is."""
        root = self.scratch.directory("root")
        minimal_root(root)
        found: dict[str, Callable[[], Part]] = {}
        for python in interpreters():
            try:
                with_it = Installed(python, self.scratch.directory("installed"))
            except CowstoreError as error:
                self.run.absent[python] = str(error)
                continue
            store = os.path.join(self.scratch.directory("runs"), "store")
            process(with_it.run_command("--store", store, "--base", root, "--", "true"), with_it.environment)
            base = f"cowstore-run:{root}"
            found[f"processes of {python}"] = partial(self.processes, with_it, store, base)
            found[f"runs by {python}"] = partial(self.runs, with_it, store, base)
            if python == sys.executable:
                found["memory"] = partial(self.memory, with_it)
        return found

    def processes(self, with_it: Installed, store: str, base: str) -> Part:
        """An import, and a run on an existing base, against an interpreter that does nothing."""
        environment, python = with_it.environment, with_it.python
        command = with_it.run_command("--store", store, "--base", base, "--", "true")
        found = self.passes(
            {
                "pass": lambda: process([python, "-c", "pass"], environment),
                "import": lambda: process([python, "-c", "import cowstore; cowstore.open"], environment),
                "run": lambda: process(command, environment),
            },
            5,
        )
        yield found
        where = with_it.name
        self.add("process", FLOOR, "python -c pass", found, "pass", interpreter=where)
        self.add("process", "cowstore", "import", found, "import", floor=FLOOR, interpreter=where)
        self.add("process", "cowstore-run", "true", found, "run", floor=FLOOR, interpreter=where)
        for name, what in (("run", "cowstore-run -- true"), ("import", "import cowstore")):
            self.run.judge(
                f"{name}-process", found.figure(lambda of, name=name: (of[name] - of["pass"]) * 1e3), 25.0,  # type: ignore[misc]
                f"{what} {took(found, name)} less python -c pass {took(found, 'pass')} of {where}", unit="ms",
            )  # fmt: skip

    def runs(self, with_it: Installed, store: str, base: str) -> Part:
        """Runs from a program: the first, and those after it."""
        times: list[list[float]] = []

        def program() -> float:
            times.append(json.loads(with_it.output("-c", _RUNS, store, base)))
            return times[-1][0]

        first = self.passes({"run": program}, 1, warm_up=0)
        yield first
        # The second may still be waiting for what the first one has started.
        later = Found({"run": [value for each in times for value in each[3:]]}, first.count)
        for name, found, limit in (("first", first, 25.0), ("later", later, 6.0)):
            self.add("cowstore.run", "cowstore", name, found, "run", interpreter=with_it.name)
            self.run.judge(
                f"run-{name}", found.figure(lambda of: of["run"] * 1e3), limit,
                f"{name} cowstore.run of true, {with_it.name}", unit="ms",
            )  # fmt: skip

    def memory(self, with_it: Installed) -> Part:
        """The most memory that a process needs which imports an archive with one large file, and exports it."""
        tree, archive = self.scratch.directory("large"), os.path.join(self.scratch.path, "large.tar")
        with open(os.path.join(tree, "large"), "wb") as file:
            file.writelines(os.urandom(_MIB) for _ in range(96))
        process(["tar", "-C", tree, "-cf", archive, "."], os.environ)

        def peak() -> float:
            place = self.scratch.directory("memory")
            found = float(with_it.output("-c", _MEMORY, place, archive))
            shutil.rmtree(place)
            return found

        found = self.passes({"peak": peak}, 1, warm_up=0)
        yield found
        self.run.add("memory", "cowstore", "import+export of 96 MiB", found.found["peak"], unit="B", passes=found.count)
        self.run.judge(
            "memory", found.figure(lambda of: of["peak"] / _MIB), 64.0,
            "peak of a process that imports and exports a 96 MiB file", unit="MiB",
        )  # fmt: skip


_RUNS = """
import json, sys, time
import cowstore
times = []
with cowstore.open(sys.argv[1]) as store:
    for _ in range(12):
        started = time.perf_counter()
        done = cowstore.run(store, parent=sys.argv[2], argv=["true"])
        times.append(time.perf_counter() - started)
        assert done.status == 0, done
print(json.dumps(times))
"""

_MEMORY = """
import sys
import cowstore
from cowstore.bench.machine import peak_bytes
with cowstore.open(f"{sys.argv[1]}/store", driver="overlay", volatile=True) as store:
    store.import_tar(sys.argv[2], name="large")
    with open(f"{sys.argv[1]}/layer", "wb") as file:
        store.export_layer("large", file, compression="gzip")
print(peak_bytes())
"""
