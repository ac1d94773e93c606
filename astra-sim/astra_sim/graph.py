"""Execution graphs: the vocabulary of Chakra, with numbers left open until a submission fills them in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class NodeKind(IntEnum):
    """What a node does; the numbers are Chakra's."""

    INVALID = 0
    MEM_LOAD = 2
    MEM_STORE = 3
    COMP = 4
    SEND = 5
    RECV = 6
    COLL = 7


class CollectiveKind(IntEnum):
    """The collectives that are simulated; the numbers are Chakra's."""

    ALL_REDUCE = 0
    ALL_GATHER = 2
    BROADCAST = 5
    ALL_TO_ALL = 6
    REDUCE_SCATTER = 7


@dataclass(frozen=True, slots=True)
class Node:
    """One node of an execution graph.

    Durations and sizes are not stored but referred to by slot: ``submit`` brings the numbers, and many nodes
    may share one. Other NPUs are named by their position in the list of NPUs given to ``submit``.
    """

    node_id: int
    kind: NodeKind
    name: str = ""
    data_deps: tuple[int, ...] = ()
    ctrl_deps: tuple[int, ...] = ()
    duration_slot: int | None = None
    """Index into submit's durations_ns."""
    size_slot: int | None = None
    """Index into submit's sizes: bytes of a message, collective, memory access or tensor."""
    ops_slot: int | None = None
    """Index into submit's sizes: number of operations, for roofline only."""
    collective: CollectiveKind | None = None
    group: tuple[int, ...] = ()
    """Positions of the members in ring order; empty: every NPU of the system."""
    involved_dims: tuple[bool, ...] = ()
    """Which dimensions a collective of the whole system uses; empty: all."""
    peer: int | None = None
    """Position of a send's destination or a receive's source."""
    tag: int = 0
    priority: int = 0
    is_cpu_op: bool = False
    copy_engine: bool = False
    """The send uses the copy unit and the receiver's copy-in lane instead of the communication unit; a load or
    store takes no unit, so that its memory alone queues it."""
    memory: int = 0
    """Which of the engine's memories a load or store addresses, or a compute node with ``pim_channel`` runs in."""
    pim_channel: int | None = None
    """A compute node with one runs in this channel of its memory: it takes no unit of the NPU, and the channel runs
    one at a time, in order of arrival."""
    part: int = 0
    """Which part of the ticket the node counts for."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes of one NPU, in any order."""

    nodes: tuple[Node, ...]


class Completion(NamedTuple):
    """A part of a ticket whose nodes have all finished."""

    ticket: int
    part: int
    finish_ns: int
