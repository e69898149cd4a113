"""Random scripts, the same for every driver, against a model and a plain directory."""

from __future__ import annotations

import pytest

from cowstore.testing import Factory, model

_layers: dict[int, tuple[str, list[str]]] = {}


@pytest.mark.parametrize("seed", range(12))
def test_script(seed: int, factory: Factory) -> None:
    """Store and model agree, and the layers are, byte for byte, those that the drivers before this one gave."""
    found = model.play(factory, seed, steps=60)
    driver, expected = _layers.setdefault(seed, (factory.driver, found))
    assert found == expected, f"seed {seed}: {factory.driver} and {driver} give different layers"
