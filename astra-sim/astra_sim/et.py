"""Chakra execution traces (.et): frames of a varint32 length and a protobuf message.

Three dialects: ``chakra`` is MLCommons' schema, whose durations are whole microseconds; ``kaist`` is that of
the published serving fork, with other node type numbers and durations in ns. In both an attribute
``duration_ns`` of our own, where present, is the duration. ``astra-sim`` is MLCommons' schema for stock
ASTRA-Sim, exact to the ns: compute nodes carry operations, see ``roofline_of_durations`` in et_graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from astra_sim.input_error import InputError
from astra_sim.lazy import lazy_module

if TYPE_CHECKING:
    from google.protobuf import message as protobuf

    from astra_sim import chakra_pb2 as chakra
else:
    chakra, protobuf = lazy_module("astra_sim.chakra_pb2"), lazy_module("google.protobuf.message")

Dialect = Literal["chakra", "kaist", "astra-sim"]
Value = int | float | str | bytes | tuple[bool, ...]

METADATA = 1
"""Node type that only describes; not a kind of work."""

VERSION = "astra_sim 1"
"""Version in the metadata of our own files: a node without the attribute ``duration_ns`` has no duration."""

_KAIST_TYPES = {4: 5, 5: 6, 6: 7, 7: 8}  # COMP, SEND, RECV, COLL
_KAIST_PIM_COMP = 4  # a COMP with an attribute that names its channel
_FROM_KAIST = {number: kind for kind, number in _KAIST_TYPES.items()} | {_KAIST_PIM_COMP: 4}
_UINT32 = 1 << 32


@dataclass(frozen=True, slots=True)
class EtRecord:
    """One node of a trace file, in MLCommons' numbering whatever the dialect."""

    node_id: int
    node_type: int
    name: str = ""
    data_deps: tuple[int, ...] = ()
    ctrl_deps: tuple[int, ...] = ()
    duration_ns: int | None = None
    attributes: Mapping[str, Value] = field(default_factory=dict)


def read_et(path: str | Path, dialect: Dialect = "chakra") -> list[EtRecord]:
    """Read the nodes of a trace file."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(path, "", "no such file") from None
    except OSError as error:
        raise InputError(path, "", f"cannot be read: {error}") from None
    frames = _frames(data, path)
    metadata = chakra.GlobalMetadata()
    try:
        metadata.ParseFromString(next(frames, b""))
        own = metadata.version == VERSION
        return [_to_record(chakra.Node.FromString(frame), own, dialect) for frame in frames]
    except protobuf.DecodeError as error:
        raise InputError(path, "", f"not a Chakra trace: {error}") from None


def write_et(path: str | Path, records: Iterable[EtRecord], dialect: Dialect = "chakra") -> None:
    """Write a trace file; durations are rounded up to whole microseconds, exact in ``duration_ns``."""
    frames = [chakra.GlobalMetadata(version=VERSION).SerializeToString()]
    frames += [_to_message(record, dialect).SerializeToString(deterministic=True) for record in records]
    Path(path).write_bytes(b"".join(_varint(len(frame)) + frame for frame in frames))


def _to_record(message: chakra.Node, own: bool, dialect: Dialect) -> EtRecord:
    attributes: dict[str, Value] = {}
    for attribute in message.attr:
        kind = attribute.WhichOneof("value")
        if kind == "bool_list":
            attributes[attribute.name] = tuple(attribute.bool_list.values)
        elif kind is not None:
            attributes[attribute.name] = getattr(attribute, kind)
    exact = attributes.pop("duration_ns", None)
    if isinstance(exact, int):
        duration_ns: int | None = exact
    elif own:
        duration_ns = None
    else:
        duration_ns = message.duration_micros * (1 if dialect == "kaist" else 1000)
    number = int(message.type)
    return EtRecord(
        node_id=message.id,
        node_type=_FROM_KAIST.get(number, number) if dialect == "kaist" else number,
        name=message.name,
        data_deps=tuple(message.data_deps),
        ctrl_deps=tuple(message.ctrl_deps),
        duration_ns=duration_ns,
        attributes=attributes,
    )


def _to_message(record: EtRecord, dialect: Dialect) -> chakra.Node:
    number = record.node_type
    if dialect == "kaist":
        in_memory = "pim_channel" in record.attributes
        number = _KAIST_PIM_COMP if in_memory else _KAIST_TYPES.get(number, number)
    message = chakra.Node(
        id=record.node_id,
        name=record.name,
        type=number,  # type: ignore[arg-type]  # other dialects have other numbers
        data_deps=record.data_deps,
        ctrl_deps=record.ctrl_deps,
    )
    if record.duration_ns is not None:
        exact = record.duration_ns
        message.duration_micros = exact if dialect == "kaist" else -(-exact // 1000)
        message.attr.add(name="duration_ns", uint64_val=exact)
    for name, value in record.attributes.items():
        _add_attribute(message, name, value)
    return message


def _add_attribute(message: chakra.Node, name: str, value: Value) -> None:
    attribute = message.attr.add(name=name)
    if isinstance(value, bool):
        attribute.bool_val = value
    elif isinstance(value, int):
        if name in _UINT32_ATTRIBUTES and value < _UINT32:
            attribute.uint32_val = value
        else:
            attribute.uint64_val = value
    elif isinstance(value, float):
        attribute.double_val = value
    elif isinstance(value, str):
        attribute.string_val = value
    elif isinstance(value, bytes):
        attribute.bytes_val = value
    else:
        attribute.bool_list.values.extend(value)


_UINT32_ATTRIBUTES = frozenset({"comm_src", "comm_dst", "comm_tag", "comm_priority"})


def _frames(data: bytes, path: str | Path) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        length, shift = 0, 0
        while True:
            if position >= len(data) or shift > 28:
                raise InputError(path, f"byte {position}", "not a Chakra trace: the file is cut or damaged")
            byte = data[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if position + length > len(data):
            raise InputError(path, f"byte {position}", "not a Chakra trace: the file is cut or damaged")
        yield data[position : position + length]
        position += length


def _varint(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
