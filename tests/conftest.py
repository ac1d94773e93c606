"""Settings of all tests: repeatable hypothesis examples, and the engine under test."""

from __future__ import annotations

import importlib.util
import os
import sys

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
