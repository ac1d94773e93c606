"""An iteration in layer groups: which blocks, rows, bytes and times each group has, and that none is lost (INV-14)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from clusters import LinearLatency
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_group_runs import cluster_of

from astra_sim import NodeKind
from inference_serving.cluster import Cluster, InstanceSpec
from inference_serving.controller import EngineController
from inference_serving.graph_generator import build_graphs
from inference_serving.layer_group import WHOLE_MODEL, LayerGroup, layer_groups
from inference_serving.placement import all_on_npu
from inference_serving.request import Batch
from inference_serving.trace import Trace
from inference_serving.trace_generator import TraceGenerator

BLOCK_KV_BYTES = 2 * 4 * 16 * 2  # K and V of one token in one block of the tiny model

blocks_of_models = st.integers(1, 80)
group_counts = st.integers(1, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("clusters")


@given(blocks_of_models, group_counts)
def test_groups_hold_every_block_once_in_order_and_none_is_empty(blocks, count):
    groups = [group.blocks(blocks) for group in layer_groups(blocks, count)]
    assert [block for group in groups for block in group] == list(range(blocks))
    sizes = [len(group) for group in groups]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(blocks_of_models, group_counts)
def test_there_are_as_many_groups_as_asked_for_but_never_more_than_blocks(blocks, count):
    groups = layer_groups(blocks, count)
    assert len(groups) == min(count, blocks)
    assert [group.is_first for group in groups] == [True] + [False] * (len(groups) - 1)
    assert [group.is_last for group in groups] == [False] * (len(groups) - 1) + [True]


def test_32_blocks_in_4_groups_and_5_in_2_by_hand():
    assert [group.blocks(32) for group in layer_groups(32, 4)] == [
        range(8),
        range(8, 16),
        range(16, 24),
        range(24, 32),
    ]
    assert [group.blocks(5) for group in layer_groups(5, 2)] == [range(2), range(2, 5)]


def test_one_group_is_the_whole_model():
    assert layer_groups(32, 1) == (WHOLE_MODEL,)
    assert WHOLE_MODEL.blocks(32) == range(32)
    assert (WHOLE_MODEL.is_first, WHOLE_MODEL.is_last) == (True, True)


@pytest.mark.parametrize("count", [0, -1])
def test_less_than_one_group_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} layer groups: must be at least 1"):
        layer_groups(32, count)


@pytest.mark.parametrize("group", [LayerGroup(4, 4), LayerGroup(-1, 4), LayerGroup(0, 0), LayerGroup(0, 33)])
def test_a_part_that_is_not_there_or_would_be_empty_is_refused(group):
    with pytest.raises(ValueError, match=r"32 blocks have no part -?\d+ of \d+"):
        group.blocks(32)


def batch(*grants_and_context: tuple[int, int]) -> Batch:
    """Rows of (tokens granted, tokens computed before)."""
    grants, context = np.array(grants_and_context, dtype=np.int64).T
    return Batch(grants, context, int(grants.sum()), 0, int(np.count_nonzero(grants)))


def in_groups(work: Batch, blocks: int, count: int) -> list[Batch]:
    return [replace(work, layer_group=group) for group in layer_groups(blocks, count)]


def deep(spec: InstanceSpec, blocks: int) -> InstanceSpec:
    """The same instance with a model of another depth."""
    model = spec.model.model_copy(update={"num_hidden_layers": blocks})
    return replace(spec, model=model, placement=all_on_npu(model))


def traces(
    spec: InstanceSpec, batches: Sequence[Batch], kv_tokens=None, decode: Sequence[InstanceSpec] = ()
) -> list[Trace]:
    generator = TraceGenerator(spec, LinearLatency())
    targets = {one.instance_id: one for one in decode}
    return [generator.synthesize_trace(one, kv_tokens or {}, targets) for one in batches]


batches = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 500)), min_size=1, max_size=4).filter(
    lambda rows: any(grant for grant, _ in rows)
)


@settings(max_examples=50)
@given(blocks_of_models, group_counts, st.sampled_from([1, 2, 4]), batches, st.booleans())
def test_the_rows_of_the_groups_one_after_another_are_the_rows_of_the_iteration(
    folder, blocks, count, npus, rows, sends
):
    cluster = cluster_of(folder, (npus, "prefill"), (2, "decode"))
    spec, decode = (deep(one, blocks) for one in cluster.instances)
    kv_tokens, work = {1: 7} if sends else {}, batch(*rows)
    (whole,) = traces(spec, [work], kv_tokens, [decode])
    groups = traces(spec, in_groups(work, blocks, count), kv_tokens, [decode])
    assert [row for trace in groups for row in trace.rows()] == list(whole.rows())  # their times, too


def test_only_the_first_group_reads_token_ids_and_only_the_last_stores_sampled_ids(tmp_path):
    (spec,) = cluster_of(tmp_path, (1, None), blocks=6).instances
    kinds = []
    for trace in traces(spec, in_groups(batch((10, 0)), 6, 3)):
        (graph,) = build_graphs(trace.shape)
        kinds.append({node.kind for node in graph.nodes})
    load, comp, store = NodeKind.MEM_LOAD, NodeKind.COMP, NodeKind.MEM_STORE
    assert kinds == [{load, comp}, {comp}, {comp, store}]


def test_a_group_reduces_for_its_own_blocks(tmp_path):
    (spec,) = cluster_of(tmp_path, (2, None), blocks=5).instances
    reduced = [
        sum(node.kind is NodeKind.COLL for node in graph.nodes)
        for trace in traces(spec, in_groups(batch((10, 0)), 5, 2))
        for graph in build_graphs(trace.shape)
    ]
    assert reduced == [
        2 * 2,
        2 * 2,
        3 * 2,
        3 * 2,
    ]  # two ranks each; o_proj and down_proj of 2 and of 3 blocks


def sent_bytes(trace: Trace) -> int:
    nodes = [node for graph in build_graphs(trace.shape) for node in graph.nodes]
    return sum(int(trace.sizes[node.size_slot]) for node in nodes if node.kind is NodeKind.SEND)


@settings(max_examples=50)
@given(blocks_of_models, group_counts, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_each_group_sends_the_kv_of_its_own_blocks_and_together_they_send_all(
    folder, blocks, count, npus, target
):
    cluster = cluster_of(folder, (npus, "prefill"), (target, "decode"), (1, "decode"))
    spec, *decode = (deep(one, blocks) for one in cluster.instances)
    groups = in_groups(batch((30, 0), (5, 9)), blocks, count)
    sent = [sent_bytes(trace) for trace in traces(spec, groups, {1: 30, 2: 5}, decode)]
    assert sent == [len(group.layer_group.blocks(blocks)) * 35 * BLOCK_KV_BYTES for group in groups]
    assert sum(sent) == blocks * 35 * BLOCK_KV_BYTES


def test_the_structure_of_a_group_is_shared_by_the_same_group_of_other_batches(tmp_path):
    (spec,) = cluster_of(tmp_path, (1, None), blocks=6).instances
    work = [*in_groups(batch((10, 0)), 6, 2), *in_groups(batch((7, 3)), 6, 2), batch((10, 0))]
    shapes = [trace.shape for trace in traces(spec, work)]
    assert [shapes.index(shape) for shape in shapes] == [0, 1, 0, 1, 4]
    assert [shape.blocks for shape in shapes[:2]] == [range(3), range(3, 6)]


def back_to_back_ns(cluster: Cluster, work: Sequence[Trace]) -> int:
    """Time of iterations that each start when the one before has ended."""
    controller = EngineController(cluster)
    for trace in work:
        ticket = controller.submit(trace, controller.now_ns)
        (done,) = controller.advance(None)
        assert (done.ticket, done.part) == (ticket, 0)
    return controller.now_ns


@settings(max_examples=30)
@given(blocks_of_models, group_counts, st.sampled_from([1, 2, 4]), batches, st.sampled_from([112, 0.3]))
def test_groups_back_to_back_take_the_time_of_the_iteration(folder, blocks, count, npus, rows, link_bw):
    """Exactly: compute nodes form one chain, and ranks that read their ids late meet at the first all-reduce."""
    cluster = cluster_of(folder, (npus, None), link_bw=link_bw)
    (spec,), work = (deep(one, blocks) for one in cluster.instances), batch(*rows)
    whole_ns = back_to_back_ns(cluster, traces(spec, [work]))
    assert back_to_back_ns(cluster, traces(spec, in_groups(work, blocks, count))) == whole_ns


@given(blocks_of_models, group_counts)
def test_the_provenance_of_groups_adds_up_to_that_of_the_iteration(folder, blocks, count):
    spec = deep(cluster_of(folder, (1, None)).instances[0], blocks)
    whole, cut = (TraceGenerator(spec, LinearLatency()) for _ in range(2))
    work = batch((30, 5), (1, 90))
    rows = list(whole.synthesize_trace(work, {}, {}).rows())
    spent_ns = [0]
    for group in in_groups(work, blocks, count):
        cut.synthesize_trace(group, {}, {})
        spent_ns.append(sum(cut.provenance_ns().values()))
    assert cut.provenance_ns() == whole.provenance_ns()
    assert spent_ns[-1] == sum(row.comp_ns for row in rows)
    assert all(before < after for before, after in pairwise(spent_ns))
