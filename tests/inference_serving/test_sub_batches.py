"""Sub-batch interleaving: how batches are split, and that the halves overlap as the closed form says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clusters import LinearLatency, instance, requests, simulate
from pim_clusters import HEAD_FIXED_NS, HEAD_TOKEN_NS, INTERLEAVED, OFFLOADED, pim_cluster

from astra_sim import Engine, Graph, Node, NodeKind
from inference_serving.cluster import InstanceSpec
from inference_serving.controller import EngineController
from inference_serving.graph_generator import build_graphs
from inference_serving.pim.interleaved_graphs import holds_a_unit, take_turns
from inference_serving.pim.sub_batches import SubBatchTraces, split_batch
from inference_serving.request import Batch
from inference_serving.trace_generator import TraceGenerator


def batch(grants: list[int], context: list[int] | None = None, groups: list[int] | None = None) -> Batch:
    given = np.array(grants, dtype=np.int64)
    before = np.full(len(grants), 100) if context is None else np.array(context)
    placed = None if groups is None else np.array(groups)
    return Batch(given, before, int(given.sum()), 0, int(np.count_nonzero(given)), kv_groups=placed)


def halves(whole: Batch) -> list[list[int]]:
    split = split_batch(whole)
    assert split is not None
    return [half.grants.tolist() for half in split]


def test_single_tokens_take_turns_channel_group_by_channel_group():
    assert halves(batch([1, 1, 1, 1], groups=[0, 1, 0, 1])) == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_chunks_go_where_fewer_tokens_are():
    assert halves(batch([1, 1, 50, 30, 30])) == [[1, 0, 50, 0, 0], [0, 1, 0, 30, 30]]


@pytest.mark.parametrize("grants", [[1], [0, 1], [40], [40, 30]])
def test_what_has_nothing_to_overlap_is_not_split(grants):
    assert split_batch(batch(grants)) is None


@pytest.mark.parametrize("seed", range(20))
def test_every_token_is_in_one_half(seed):
    rng = np.random.default_rng(seed)
    whole = batch(rng.choice([0, 1, 1, 1, 17, 90], 30).tolist(), groups=rng.integers(0, 4, 30).tolist())
    split = split_batch(whole)
    assert split is not None
    first, second = split
    assert (first.grants + second.grants).tolist() == whole.grants.tolist()
    assert first.total_tokens + second.total_tokens == whole.total_tokens
    assert first.sequences + second.sequences == whole.sequences
    singles = [np.count_nonzero(half.grants == 1) for half in split]
    assert abs(singles[0] - singles[1]) <= 1


def iteration_ns(spec: InstanceSpec, engine: EngineController, whole: Batch, *, interleaved: bool) -> int:
    """Time of one iteration alone."""
    traces = (SubBatchTraces if interleaved else TraceGenerator)(spec, LinearLatency())
    start_ns = engine.now_ns
    engine.submit(traces.synthesize_trace(whole, {}, {}), start_ns)
    (done,) = engine.advance(None)
    return done.finish_ns - start_ns


@pytest.mark.parametrize("npus", [1, 2])
@pytest.mark.parametrize("kv", [10, 500, 2000])
@pytest.mark.parametrize("rows", [2, 3, 8, 24])
def test_an_iteration_is_as_long_as_its_halves_allow(tmp_path: Path, rows, kv, npus):
    """At least the longer half alone and the NPU's work of both; at most one half after the other.

    Halves that compete for host memory may each wait for one access of the other a block.
    """
    cluster = pim_cluster(tmp_path, [instance(tmp_path, npus)], channels=8, config=INTERLEAVED)
    spec, engine = cluster.instances[0], EngineController(cluster)
    whole = batch([1] * rows, context=[kv] * rows)
    split = split_batch(whole)
    assert split is not None
    alone = [iteration_ns(spec, engine, half, interleaved=False) for half in split]
    both = iteration_ns(spec, engine, whole, interleaved=True)
    npu_ns = sum(24 * (1000 + 10 * half.total_tokens) + 1000 + 10 * half.sequences for half in split)
    assert max(*alone, npu_ns) <= both <= sum(alone)


def test_memory_works_on_one_half_while_the_npu_has_the_other(tmp_path: Path):
    """Two equal halves whose attention is shorter than the NPU's work of a block: all of it is hidden.

    16 requests on 8 channels are four heads a channel and half.
    """
    cluster = pim_cluster(tmp_path, [instance(tmp_path)], channels=8, config=INTERLEAVED)
    spec, engine = cluster.instances[0], EngineController(cluster)
    whole = batch([1] * 16, context=[99] * 16)
    both = iteration_ns(spec, engine, whole, interleaved=True)
    split = split_batch(whole)
    assert split is not None
    alone = iteration_ns(spec, engine, split[0], interleaved=False)
    attention_ns = 4 * (HEAD_TOKEN_NS * 100 + HEAD_FIXED_NS)
    assert attention_ns < 11 * 1080
    npu_ns = 24 * (1000 + 10 * 8) + 1000 + 10 * 8
    accesses_ns = alone - npu_ns - 2 * attention_ns
    assert both == pytest.approx(2 * npu_ns, abs=4 * accesses_ns)


def test_phases_alternate_on_the_npu(tmp_path: Path):
    """Every node that holds a unit waits, directly or not, for the phase before it in the fixed order."""
    cluster = pim_cluster(tmp_path, [instance(tmp_path)], channels=4, config=INTERLEAVED)
    traces = SubBatchTraces(cluster.instances[0], LinearLatency())
    (graph,) = build_graphs(traces.synthesize_trace(batch([1] * 4), {}, {}).shape)
    first_phase = [node for node in graph.nodes if holds_a_unit(node) and len(node.data_deps) == 2]
    names = [node.name.rsplit("_", 1)[0] for node in first_phase]
    assert names == ["o_proj", "o_proj", "o_proj", "o_proj"]


def test_two_graphs_take_turns():
    """Halves a0 a1 and b0 b1, marked after a0 and b0, run as a0 b0 a1 b1."""

    def chain(names: list[str]) -> Graph:
        return Graph(
            tuple(
                Node(number, NodeKind.COMP, name, data_deps=(number - 1,) if number else (), duration_slot=0)
                for number, name in enumerate(names)
            )
        )

    joined = take_turns(chain(["a0", "a1"]), [1], chain(["b0", "b1"]), [1])
    parents = {node.name: [joined.nodes[one].name for one in node.data_deps] for node in joined.nodes}
    assert parents == {"a0": [], "a1": ["a0", "b0"], "b0": ["a0"], "b1": ["b0", "a1"]}


@pytest.mark.parametrize("npus", [1, 2])
def test_interleaving_is_faster_where_both_sides_have_much_to_do(tmp_path: Path, npus):
    """Layers that cost nothing but their tokens, so that two halves cost as much as the whole."""

    class TokensOnly(LinearLatency):
        def layer_ns(self, layer, tokens):
            return 30 * tokens

    lengths = requests(*[(20, 30)] * 24)
    ends = []
    for config in (OFFLOADED, INTERLEAVED):
        cluster = pim_cluster(tmp_path, [instance(tmp_path, npus)], channels=8, config=config)
        run = simulate(cluster, lengths, config, latency=TokensOnly())
        ends.append(max(one.end_ns for one in run.requests))
    assert ends[1] < 0.8 * ends[0]


def test_structures_are_compiled_once(tmp_path: Path, monkeypatch):
    compiled = []
    compile_graphs = Engine.compile
    monkeypatch.setattr(
        Engine, "compile", lambda self, graphs: compiled.append(1) or compile_graphs(self, graphs)
    )
    cluster = pim_cluster(tmp_path, [instance(tmp_path)], config=INTERLEAVED)
    run = simulate(cluster, requests(*[(20, 40)] * 4), INTERLEAVED)
    assert run.instances[0].iterations == 40
    assert len(compiled) == 2  # prompts; tokens in two halves
