"""Fixtures: models, synthetic tables, and reference tables where they exist."""

import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from fake_aiconfigurator import VERSION, FakePackage
from synthetic_bundles import write_bundle
from synthetic_tables import write_attention, write_layers

from llm_profile import silicon_table
from llm_profile.model_config import ModelConfig, load_model_config

REFERENCE_DIR = Path(os.environ.get("REFERENCE_DIR", Path(__file__).parents[3] / "shared" / "reference"))


@pytest.fixture
def llama() -> ModelConfig:
    return load_model_config("meta-llama/Llama-3.1-8B")


@pytest.fixture
def tables(tmp_path) -> Callable[..., Path]:
    """Write full tables of card ``CARD`` and return the profile folder."""

    def write(hardware: str = "CARD", **layer_options: object) -> Path:
        folder = tmp_path / "tables" / hardware / "meta-llama" / "Llama-3.1-8B" / "tp1"
        write_layers(folder, **layer_options)
        write_attention(folder)
        return tmp_path / "tables"

    return write


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A bundle of card ``CARD`` for Llama-3.1-8B: its tp folder, two below the variant's parent."""
    return write_bundle(tmp_path / "bundles" / "CARD" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp1")


@pytest.fixture
def reference_profiles() -> Path:
    folder = REFERENCE_DIR / "profiles_v1"
    if not folder.is_dir():
        pytest.skip("reference profiles are not here (REFERENCE_DIR)")
    return folder


@pytest.fixture
def reference_bundles() -> Path:
    folder = REFERENCE_DIR / "profiles_v2"
    if not folder.is_dir():
        pytest.skip("reference bundles are not here (REFERENCE_DIR)")
    return folder


@pytest.fixture
def silicon_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of silicon tables."""
    monkeypatch.setenv("LLMSERVINGSIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "silicon"


@pytest.fixture
def fake_package(silicon_cache, monkeypatch) -> FakePackage:
    """Install the stand-in for the package of silicon rows, with an empty cache."""
    installed = FakePackage()
    for name, module in installed.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(silicon_table, "installed_version", lambda: VERSION)
    return installed


@pytest.fixture
def real_package(silicon_cache, monkeypatch) -> str:
    """Version of the package of silicon rows, with an empty cache; skips where it is not installed."""
    try:
        version = metadata.version(silicon_table.PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip("the extra silicon is not installed")
    monkeypatch.setattr(silicon_table, "installed_version", lambda: version)
    return version
