"""Random scripts, the same for every driver, against a model and a plain directory."""

from __future__ import annotations

import pytest

from cowstore.testing import Factory, model


@pytest.mark.parametrize("seed", range(12))
def test_script(seed: int, factory: Factory) -> None:
    model.play(factory, seed, steps=60)
