"""Classes by name: built in, registered, or a user's own by ``module:Class``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

ClassT = TypeVar("ClassT")
AnyClassT = TypeVar("AnyClassT")
_CUSTOM = "CUSTOM"


class UnknownNameError(ValueError):
    """There is no class of this name; the message says what there is."""


class Registry(Generic[ClassT]):
    """Classes of one kind.

    >>> encoders = Registry("an encoder", "docs/none.md", ("encode",), {"json": "json:JSONEncoder"})
    >>> encoders.names()
    ['json']
    >>> encoders.find("json").__name__
    'JSONEncoder'
    >>> encoders.find("yaml")
    Traceback (most recent call last):
    inference_serving.registry.UnknownNameError: 'yaml' is unknown; use one of json, or your own by module:Class
    """

    def __init__(
        self,
        kind: str,
        page: str,
        parts: tuple[str, ...],
        built_in: Mapping[str, str] | None = None,
        other_names: Callable[[], list[str]] = list,
    ) -> None:
        """Begin with ``built_in``, by name, each as ``module:Class`` and imported when it is first asked for.

        ``kind`` (with its article), ``page`` (which describes it) and ``other_names`` (right where these are, but
        kept elsewhere) are for messages; a user's own class must have all attributes in ``parts``.
        """
        self._kind = kind
        self._page = page
        self._parts = parts
        self._other_names = other_names
        self._classes: dict[str, ClassT | str] = dict(built_in or {})

    def register(self, name: str) -> Callable[[AnyClassT], AnyClassT]:
        """Class decorator that makes a class available under ``name``."""

        def register(found: AnyClassT) -> AnyClassT:
            self._classes[name] = cast(ClassT, found)
            return found

        return register

    def names(self) -> list[str]:
        """Names of the classes, sorted."""
        return sorted(self._classes)

    def __contains__(self, name: str) -> bool:
        return name in self._classes

    def __getitem__(self, name: str) -> ClassT:
        """The class of a name; raises KeyError if there is none."""
        found = self._classes[name]
        if isinstance(found, str):
            found = self._classes[name] = cast(ClassT, import_class(found))
        return found

    def find(self, name: str) -> ClassT:
        """The class behind a name or a ``module:Class``; raises UnknownNameError that says what would be right."""
        if name in self:
            return self[name]
        if ":" not in name:
            names = ", ".join([*self._other_names(), *self.names()])
            raise UnknownNameError(f"{name!r} is unknown; use one of {names}, or your own by module:Class")
        found = import_class(name)
        if not all(hasattr(found, part) for part in self._parts):
            raise UnknownNameError(f"{name!r}: not {self._kind}; see {self._page}")
        return cast(ClassT, found)


class CustomRegistry(Registry[ClassT]):
    """A registry whose users may also write ``CUSTOM`` and give their class as the option ``class``."""

    def names(self) -> list[str]:
        """Names of the classes, and CUSTOM, sorted."""
        return sorted([*super().names(), _CUSTOM])

    def unwrap(self, name: str, args: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The name to find, and the options that are left for its class; raises ValueError for CUSTOM alone."""
        left = dict(args)
        if name != _CUSTOM:
            return name, left
        if "class" not in left:
            raise ValueError("CUSTOM needs class=module:Class")
        return left.pop("class"), left


def import_class(name: str) -> Any:
    """What ``module:Class`` names; raises UnknownNameError that says what is wrong with it."""
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does while it is imported
        raise UnknownNameError(f"{name!r}: cannot import {module_name}: {error}") from None
    if not hasattr(module, class_name):
        raise UnknownNameError(f"{name!r}: module {module_name} has no {class_name}")
    return getattr(module, class_name)
