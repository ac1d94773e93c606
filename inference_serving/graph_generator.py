"""From the structure of a trace to one Chakra graph per NPU, for the engine to compile.

On the instance's own NPUs every row is a compute node, each waiting for the row before and for its weights and
KV if they are elsewhere; loads and stores go by the copy engines, so that they overlap with compute. Under tensor
parallelism an all-reduce follows o_proj and down_proj (or the experts), under expert parallelism all-to-alls
surround the experts, and an all-gather gives every rank all tokens again. KV leaves by the copy engine as soon
as a block's K and V exist, so that it overlaps with compute and collectives; the decode side only posts
receives. Part 0 of the ticket is the iteration itself, part ``p`` the transfer to the ``p``-th target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from astra_sim import CollectiveKind, Graph, Node, NodeKind
from inference_serving.kv_transfer import HeadTransfer
from inference_serving.pim.interleaved_graphs import take_turns
from inference_serving.placement import HOST_MEMORY
from inference_serving.trace_shape import (
    ALL_REDUCE_SLOT,
    SAMPLED_IDS_SLOT,
    TOKEN_IDS_SLOT,
    ActivationTransfer,
    KvTarget,
    MemoryAccess,
    RowShape,
    TraceShape,
)

ACTIVATION_TAG = 0
"""Of messages between pipeline stages; those of KV have their row's number, and no first row sends KV."""


def build_graphs(shape: TraceShape) -> list[Graph]:
    """One graph per NPU of ``shape.npus``, in that order."""
    if shape.halves:
        return [_interleaved(shape.halves, rank) for rank in range(shape.instance.tp_size)]
    graphs = [_RankGraph(shape, rank).build() for rank in range(shape.instance.tp_size)]
    for target in shape.targets:
        graphs += [_receive_graph(shape, target, rank) for rank in range(target.instance.tp_size)]
    if shape.hands_on is not None:
        graphs += [_activation_graph(shape.hands_on, rank) for rank in range(shape.instance.tp_size)]
    return graphs


def build_wave_graphs(traces: Sequence[tuple[TraceShape, int]]) -> list[Graph]:
    """Graphs of instances that run one iteration together, for their NPUs one instance after another.

    ``traces`` are structures and lengths of their durations; numbers follow one another as NPUs do, see
    :func:`wave_npus`. All-to-alls over more ranks than an instance has span the wave.
    """
    own: list[Graph] = []
    receiving: list[Graph] = []
    durations = sizes = 0
    ranks = sum(shape.instance.tp_size for shape, _ in traces)
    for shape, length in traces:
        tp_size = shape.instance.tp_size
        positions = [len(own) + rank for rank in range(tp_size)]
        positions += [ranks + len(receiving) + index for index in range(len(shape.npus) - tp_size)]
        moved = [_moved(graph, positions, durations, sizes, tp_size) for graph in build_graphs(shape)]
        own += moved[:tp_size]
        receiving += moved[tp_size:]
        durations += length
        sizes += shape.size_slots
    return own + receiving


def wave_npus(shapes: Sequence[TraceShape]) -> list[int]:
    """NPUs of instances that run together: those of all instances, then those of whoever receives from them."""
    own = [npu for shape in shapes for npu in shape.instance.npus]
    return own + [npu for shape in shapes for npu in shape.npus[shape.instance.tp_size :]]


def _moved(graph: Graph, positions: Sequence[int], durations: int, sizes: int, tp_size: int) -> Graph:
    """A graph with its slots further back, and the ``positions`` that its instance's NPUs have now."""
    return Graph(
        tuple(
            replace(
                node,
                duration_slot=None if node.duration_slot is None else node.duration_slot + durations,
                size_slot=None if node.size_slot is None else node.size_slot + sizes,
                peer=None if node.peer is None else positions[node.peer],
                group=node.group
                if len(node.group) > tp_size
                else tuple(positions[position] for position in node.group),
            )
            for node in graph.nodes
        )
    )


def _interleaved(halves: Sequence[TraceShape], rank: int) -> Graph:
    """The graph of one rank on which two sub-batches take turns."""
    first, second = (_RankGraph(half, rank) for half in halves)
    one, other = halves
    positions, tp_size = range(len(other.npus)), other.instance.tp_size
    moved = _moved(second.build(), positions, one.duration_slots, one.size_slots, tp_size)
    return take_turns(first.build(), first.attention_ends, moved, second.attention_ends)


class _RankGraph:
    """Builds the graph of one of the instance's own ranks, row by row."""

    def __init__(self, shape: TraceShape, rank: int) -> None:
        self._shape = shape
        self._rank = rank
        self._group = tuple(range(shape.instance.tp_size))
        self._spread = tuple(range(shape.instance.ep_size))
        self._nodes: list[Node] = []
        self._last: tuple[int, ...] = ()
        self._stage = -1
        self._stage_ends: dict[int, tuple[int, ...]] = {}
        self._sent_to_pim = -1
        self.attention_ends: list[int] = []
        """Numbers of nodes up to the end of each block's attention."""

    def build(self) -> Graph:
        self._add_moves("kv_evict", NodeKind.MEM_STORE)
        self._add_moves("kv_load", NodeKind.MEM_LOAD)
        if self._shape.gathers_activations:
            moved, self._last = self._last, ()
            slot = self._shape.activation_slot
            self._collective("activations_all_gather", CollectiveKind.ALL_GATHER, slot)
            self._last += moved
        for index, row in enumerate(self._shape.rows):
            self._add_row(index, row)
        return Graph(tuple(self._nodes))

    def _add_row(self, index: int, row: RowShape) -> None:
        if row.stage != self._stage:
            self._stage_ends[self._stage] = self._last
            self._stage = row.stage
        if row.loads_token_ids:
            # with stages, what the batch before still sends must not hold up the next one
            ahead = self._shape.hands_on is not None
            self._chain(NodeKind.MEM_LOAD, f"{row.name}_load", size_slot=TOKEN_IDS_SLOT, copy_engine=ahead)
        fetched = self._prefetch(row)
        self._last += fetched
        if row.on_npu:
            self._chain(NodeKind.COMP, row.name, duration_slot=self._shape.duration_slot(row, self._rank))
        computed = self._last
        if row.to_pim is not None:
            self._sent_to_pim = self._access(NodeKind.MEM_STORE, f"{row.name}_to_pim", row.to_pim, computed)
        if row.from_pim is not None:
            self._add_pim(row, row.from_pim)
        if row.layer == "attn":
            self.attention_ends.append(len(self._nodes))
        if row.kv_write is not None:
            self._access(NodeKind.MEM_STORE, f"{row.name}_kv_store", row.kv_write, computed)
        if row.kv_ready:
            self._add_sends(index, row)
        self._add_collectives(row)
        if row.stores_sampled_ids:
            self._chain(NodeKind.MEM_STORE, f"{row.name}_store", size_slot=SAMPLED_IDS_SLOT)
        if index == len(self._shape.rows) - 1:
            self._hand_on()
            self._last = computed
            self._add_moves("kv_store", NodeKind.MEM_STORE)

    def _add_moves(self, name: str, kind: NodeKind) -> None:
        """KV of whole tokens on its way, to and from all places at once; what comes next waits for all of it."""
        moves = [move for move in self._shape.moves if move.kind.name == name]
        if moves:
            self._last = tuple(
                self._access(kind, f"{name}_{move.kind.place}", move.access, self._last) for move in moves
            )

    def _prefetch(self, row: RowShape) -> tuple[int, ...]:
        """Load a row's weights and KV, as early as its stage may begin to be fetched."""
        ahead = self._shape.instance.placement.prefetch_blocks
        before = self._stage_ends.get(row.stage - 1 - ahead, ())
        wanted = (("weights", row.weights), ("kv_load", row.kv_read))
        return tuple(
            self._access(NodeKind.MEM_LOAD, f"{row.name}_{what}", access, before)
            for what, access in wanted
            if access is not None
        )

    def _access(self, kind: NodeKind, name: str, access: MemoryAccess, after: tuple[int, ...]) -> int:
        """Add a load or store by a copy engine; returns its id."""
        node_id = len(self._nodes)
        self._nodes.append(
            Node(
                node_id,
                kind,
                name,
                data_deps=after,
                size_slot=access.slot,
                memory=access.memory,
                copy_engine=True,
            )
        )
        return node_id

    def _chain(
        self,
        kind: NodeKind,
        name: str,
        *,
        duration_slot: int | None = None,
        size_slot: int | None = None,
        copy_engine: bool = False,
    ) -> None:
        """Add a node that waits for the one before and that the next one waits for."""
        node_id = len(self._nodes)
        self._nodes.append(
            Node(
                node_id,
                kind,
                name,
                data_deps=self._last,
                duration_slot=duration_slot,
                size_slot=size_slot,
                copy_engine=copy_engine,
            )
        )
        self._last = (node_id,)

    def _add_pim(self, row: RowShape, results: MemoryAccess) -> None:
        """Attention in memory: all channels of the rank at once, then the results come back.

        A node is at the first of the channels that work in unison, and stands for all of them.
        """
        first = len(self._nodes)
        channels = self._shape.pim_channels[self._rank]
        self._nodes += [
            Node(
                first + index,
                NodeKind.COMP,
                f"{row.name}_pim_{channel}",
                data_deps=(self._sent_to_pim,),
                duration_slot=self._shape.first_pim_slot + index,
                memory=results.memory,
                pim_channel=channel,
            )
            for index, channel in enumerate(channels)
        ]
        after = tuple(range(first, first + len(channels)))
        back = self._access(NodeKind.MEM_LOAD, f"{row.name}_from_pim", results, after)
        self._last = (*self._last, back) if row.on_npu else (back,)

    def _add_collectives(self, row: RowShape) -> None:
        """What the ranks do together after a row: nothing, most often."""
        if row.all_reduce:
            self._collective(f"{row.name}_all_reduce", CollectiveKind.ALL_REDUCE, ALL_REDUCE_SLOT)
        if row.dispatches:
            slot = self._shape.all_to_all_slot(row.draw)
            self._collective(f"{row.name}_dispatch", CollectiveKind.ALL_TO_ALL, slot)
        if row.combines:
            slot = self._shape.all_to_all_slot(row.draw)
            self._collective(f"{row.name}_combine", CollectiveKind.ALL_TO_ALL, slot)
            if self._shape.instance.tp_size > 1:
                self._collective(
                    f"{row.name}_all_gather", CollectiveKind.ALL_GATHER, self._shape.all_gather_slot
                )

    def _hand_on(self) -> None:
        """Send the rank's share of the activations to the next pipeline stage."""
        transfer = self._shape.hands_on
        if transfer is None:
            return
        self._nodes.append(
            Node(
                len(self._nodes),
                NodeKind.SEND,
                f"activations_to_stage_{transfer.stage}",
                data_deps=self._last,
                size_slot=transfer.slot,
                peer=transfer.first_position + self._rank,
                tag=ACTIVATION_TAG,
                part=transfer.part,
            )
        )

    def _collective(self, name: str, kind: CollectiveKind, size_slot: int | None) -> None:
        node_id = len(self._nodes)
        self._nodes.append(
            Node(
                node_id,
                NodeKind.COLL,
                name,
                data_deps=self._last,
                size_slot=size_slot,
                collective=kind,
                group=self._spread if kind is CollectiveKind.ALL_TO_ALL else self._group,
            )
        )
        self._last = (node_id,)

    def _add_sends(self, index: int, row: RowShape) -> None:
        for target in self._shape.targets:
            for slot, transfer in enumerate(target.transfers, start=target.first_slot):
                if transfer.source_rank != self._rank or row.block not in target.blocks:
                    continue
                self._nodes.append(
                    Node(
                        len(self._nodes),
                        NodeKind.SEND,
                        f"{row.name}_kv_to_{target.instance.instance_id}",
                        data_deps=self._last,
                        size_slot=slot,
                        peer=target.first_position + transfer.target_rank,
                        tag=index,
                        copy_engine=True,
                        part=target.part,
                    )
                )


def _receive_graph(shape: TraceShape, target: KvTarget, rank: int) -> Graph:
    """Receives of one decode rank; they hold no unit, so they are all posted at once."""
    incoming = [
        (index, row, slot, transfer)
        for index, row in enumerate(shape.rows)
        if row.kv_ready and row.block in target.blocks
        for slot, transfer in enumerate(target.transfers, start=target.first_slot)
        if transfer.target_rank == rank
    ]
    nodes = [
        _receive(node_id, row, index, slot, transfer, target.part)
        for node_id, (index, row, slot, transfer) in enumerate(incoming)
    ]
    if target.instance.pim is not None:
        nodes += [_into_host_memory(node, len(nodes) + node.node_id) for node in nodes]
    return Graph(tuple(nodes))


def _into_host_memory(received: Node, node_id: int) -> Node:
    """The way of received KV to the memory where the decode instance's attention runs: it has landed only there."""
    return Node(
        node_id,
        NodeKind.MEM_STORE,
        f"{received.name}_store",
        data_deps=(received.node_id,),
        size_slot=received.size_slot,
        memory=HOST_MEMORY,
        copy_engine=True,
        part=received.part,
    )


def _activation_graph(transfer: ActivationTransfer, rank: int) -> Graph:
    """Receive of one rank of the next pipeline stage."""
    name = f"activations_from_stage_{transfer.stage - 1}"
    receive = Node(
        0,
        NodeKind.RECV,
        name,
        size_slot=transfer.slot,
        peer=rank,
        tag=ACTIVATION_TAG,
        part=transfer.part,
    )
    return Graph((receive,))


def _receive(node_id: int, row: RowShape, index: int, slot: int, transfer: HeadTransfer, part: int) -> Node:
    return Node(
        node_id,
        NodeKind.RECV,
        f"{row.name}_kv_from_rank_{transfer.source_rank}",
        size_slot=slot,
        peer=transfer.source_rank,
        tag=index,
        part=part,
    )
