"""The catalog's file between two processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cowstore import catalog

if TYPE_CHECKING:
    from pathlib import Path

    import cowstore


def test_the_log_outlives_the_process(root: Path, store: cowstore.Store) -> None:
    store.prepare("first")
    path = str(root / "catalog.db")
    store._core.catalog.close()
    pid = os.fork()
    if pid == 0:
        try:
            own = catalog.Catalog(path)
            own.leave_log()
            for _ in range(400):
                own.set_meta("boot", "another")
            own.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    log = os.stat(f"{path}-wal").st_size
    assert 0 < log < 200 * 4200
    store._core.catalog = catalog.Catalog(path)
    assert store._core.catalog.meta()["boot"] == "another"
    assert store.stat("first").key == "first"
