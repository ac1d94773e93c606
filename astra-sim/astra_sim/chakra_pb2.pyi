# ruff: noqa
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INVALID_NODE: _ClassVar[NodeType]
    METADATA_NODE: _ClassVar[NodeType]
    MEM_LOAD_NODE: _ClassVar[NodeType]
    MEM_STORE_NODE: _ClassVar[NodeType]
    COMP_NODE: _ClassVar[NodeType]
    COMM_SEND_NODE: _ClassVar[NodeType]
    COMM_RECV_NODE: _ClassVar[NodeType]
    COMM_COLL_NODE: _ClassVar[NodeType]

INVALID_NODE: NodeType
METADATA_NODE: NodeType
MEM_LOAD_NODE: NodeType
MEM_STORE_NODE: NodeType
COMP_NODE: NodeType
COMM_SEND_NODE: NodeType
COMM_RECV_NODE: NodeType
COMM_COLL_NODE: NodeType

class BoolList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, values: _Optional[_Iterable[bool]] = ...) -> None: ...

class AttributeProto(_message.Message):
    __slots__ = (
        "name",
        "doc_string",
        "double_val",
        "float_val",
        "int32_val",
        "int64_val",
        "uint32_val",
        "uint64_val",
        "sint32_val",
        "sint64_val",
        "fixed32_val",
        "fixed64_val",
        "sfixed32_val",
        "sfixed64_val",
        "bool_val",
        "bool_list",
        "string_val",
        "bytes_val",
    )
    NAME_FIELD_NUMBER: _ClassVar[int]
    DOC_STRING_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VAL_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VAL_FIELD_NUMBER: _ClassVar[int]
    INT32_VAL_FIELD_NUMBER: _ClassVar[int]
    INT64_VAL_FIELD_NUMBER: _ClassVar[int]
    UINT32_VAL_FIELD_NUMBER: _ClassVar[int]
    UINT64_VAL_FIELD_NUMBER: _ClassVar[int]
    SINT32_VAL_FIELD_NUMBER: _ClassVar[int]
    SINT64_VAL_FIELD_NUMBER: _ClassVar[int]
    FIXED32_VAL_FIELD_NUMBER: _ClassVar[int]
    FIXED64_VAL_FIELD_NUMBER: _ClassVar[int]
    SFIXED32_VAL_FIELD_NUMBER: _ClassVar[int]
    SFIXED64_VAL_FIELD_NUMBER: _ClassVar[int]
    BOOL_VAL_FIELD_NUMBER: _ClassVar[int]
    BOOL_LIST_FIELD_NUMBER: _ClassVar[int]
    STRING_VAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_VAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    doc_string: str
    double_val: float
    float_val: float
    int32_val: int
    int64_val: int
    uint32_val: int
    uint64_val: int
    sint32_val: int
    sint64_val: int
    fixed32_val: int
    fixed64_val: int
    sfixed32_val: int
    sfixed64_val: int
    bool_val: bool
    bool_list: BoolList
    string_val: str
    bytes_val: bytes
    def __init__(
        self,
        name: _Optional[str] = ...,
        doc_string: _Optional[str] = ...,
        double_val: _Optional[float] = ...,
        float_val: _Optional[float] = ...,
        int32_val: _Optional[int] = ...,
        int64_val: _Optional[int] = ...,
        uint32_val: _Optional[int] = ...,
        uint64_val: _Optional[int] = ...,
        sint32_val: _Optional[int] = ...,
        sint64_val: _Optional[int] = ...,
        fixed32_val: _Optional[int] = ...,
        fixed64_val: _Optional[int] = ...,
        sfixed32_val: _Optional[int] = ...,
        sfixed64_val: _Optional[int] = ...,
        bool_val: bool = ...,
        bool_list: _Optional[_Union[BoolList, _Mapping]] = ...,
        string_val: _Optional[str] = ...,
        bytes_val: _Optional[bytes] = ...,
    ) -> None: ...

class GlobalMetadata(_message.Message):
    __slots__ = ("version", "attr")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ATTR_FIELD_NUMBER: _ClassVar[int]
    version: str
    attr: _containers.RepeatedCompositeFieldContainer[AttributeProto]
    def __init__(
        self,
        version: _Optional[str] = ...,
        attr: _Optional[_Iterable[_Union[AttributeProto, _Mapping]]] = ...,
    ) -> None: ...

class IOInfo(_message.Message):
    __slots__ = ("values", "shapes", "types")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    values: str
    shapes: str
    types: str
    def __init__(
        self, values: _Optional[str] = ..., shapes: _Optional[str] = ..., types: _Optional[str] = ...
    ) -> None: ...

class Node(_message.Message):
    __slots__ = (
        "id",
        "name",
        "type",
        "ctrl_deps",
        "data_deps",
        "start_time_micros",
        "duration_micros",
        "inputs",
        "outputs",
        "attr",
    )
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CTRL_DEPS_FIELD_NUMBER: _ClassVar[int]
    DATA_DEPS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_MICROS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MICROS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    ATTR_FIELD_NUMBER: _ClassVar[int]
    id: int
    name: str
    type: NodeType
    ctrl_deps: _containers.RepeatedScalarFieldContainer[int]
    data_deps: _containers.RepeatedScalarFieldContainer[int]
    start_time_micros: int
    duration_micros: int
    inputs: IOInfo
    outputs: IOInfo
    attr: _containers.RepeatedCompositeFieldContainer[AttributeProto]
    def __init__(
        self,
        id: _Optional[int] = ...,
        name: _Optional[str] = ...,
        type: _Optional[_Union[NodeType, str]] = ...,
        ctrl_deps: _Optional[_Iterable[int]] = ...,
        data_deps: _Optional[_Iterable[int]] = ...,
        start_time_micros: _Optional[int] = ...,
        duration_micros: _Optional[int] = ...,
        inputs: _Optional[_Union[IOInfo, _Mapping]] = ...,
        outputs: _Optional[_Union[IOInfo, _Mapping]] = ...,
        attr: _Optional[_Iterable[_Union[AttributeProto, _Mapping]]] = ...,
    ) -> None: ...
