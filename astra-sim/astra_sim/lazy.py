"""Modules that are imported when something of them is first used: what most runs never need costs them no time."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def lazy_module(name: str) -> ModuleType:
    """The module of this name, imported now only if it has been already; else at the first use of an attribute.

    Type checkers know nothing of it, so an ordinary import for them goes with it::

        if TYPE_CHECKING:
            from rich import progress
        else:
            progress = lazy_module("rich.progress")

    Raises ModuleNotFoundError if there is no such module.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
