"""One way to reject bad input: an error that names file, field, value and what would be right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

ModelT = TypeVar("ModelT", bound=BaseModel)


class InputError(ValueError):
    """Bad user input; the command line prints it as ``error: FILE: FIELD: MESSAGE`` and exits with code 2."""

    def __init__(self, file: str | Path, field: str, message: str) -> None:
        self.file = str(file)
        self.field = field
        self.message = message
        super().__init__(": ".join(part for part in (self.file, field, message) if part))


def field_path(location: tuple[int | str, ...]) -> str:
    """Write a pydantic error location as users read it: ``nodes[0].instances[1].npu_num``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def validated(schema: type[ModelT], data: object, file: str | Path) -> ModelT:
    """Build ``schema`` from ``data``; raise :class:`InputError` for the first field that is wrong."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        field, description = _most_telling(data, error)
        raise InputError(file, field, description) from error


def read_json_object(file: str | Path) -> dict[str, Any]:
    """Read a JSON file whose top level is an object; raise :class:`InputError` if it is anything else."""
    path = Path(file)
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(path, "", "no such file") from None
    except OSError as error:
        raise InputError(path, "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(path, "", "not a UTF-8 text file") from None
    except json.JSONDecodeError as error:
        raise InputError(path, f"line {error.lineno}", f"not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, endless brackets
        raise InputError(path, "", f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(path, "", f"the top level must be a JSON object, not {type(data).__name__}")
    return data


def _most_telling(data: object, error: ValidationError) -> tuple[str, str]:
    """Field and description of the first error; of a union's alternatives, the one that got furthest."""
    errors = [(_named_in(data, one["loc"]), one) for one in error.errors(include_url=False)]
    place = errors[0][0]
    inside = [one for one in errors if one[0][: len(place)] == place]
    deepest, chosen = max(inside, key=lambda one: len(one[0]))
    return field_path(deepest), _describe(chosen)


def _named_in(data: object, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Drop the parts of a pydantic location that name an alternative of a union, not a field."""
    parts: list[int | str] = []
    for part in location:
        if isinstance(data, dict):
            parts.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            parts.append(part)
            data = data[part]
    return tuple(parts)


def _describe(error: Mapping[str, Any]) -> str:
    """Turn one pydantic error into a sentence with the value that was given."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return "this field is required"
    if error["type"] == "extra_forbidden":
        return "unknown field; check the spelling"
    if error["type"] == "value_error":
        return message
    if error["type"] in ("model_type", "dict_type"):
        message = "Must be a JSON object"
    value = error["input"]
    shown = value if isinstance(value, str | int | float | bool | type(None)) else type(value).__name__
    return f"{shown!r}: {message[0].lower()}{message[1:]}"
