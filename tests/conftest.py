"""Settings of all tests: repeatable hypothesis examples, and the engine under test."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def _use_engine_module(file: str) -> None:
    """Take the compiled engine from ``file``, such as one built with sanitizers, instead of the installed one."""
    spec = importlib.util.spec_from_file_location("astra_sim._engine", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["astra_sim._engine"] = module
    spec.loader.exec_module(module)


if engine_module := os.environ.get("ENGINE_MODULE"):
    _use_engine_module(engine_module)


@pytest.fixture(autouse=True, scope="session")
def _without_silicon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Results do not depend on whether the extra ``silicon`` is installed, nor on the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_profile.silicon_table.installed_version", lambda: None)
        patch.setenv("LLMSERVINGSIM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
