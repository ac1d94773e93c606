"""Pipeline stages together with data-parallel groups, experts, prefill and decode apart; and stages that stall."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from clusters import instance, make_cluster, requests, simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_clusters import MOE_BLOCK, MoeLatency, expert_ns, moe_instance
from pim_clusters import OFFLOADED, pim_cluster
from pipeline_clusters import BLOCKS, HOP_BYTES_PER_TOKEN, KV_BYTES_PER_TOKEN, hop_ns, pp_cluster, pp_instance
from run_invariants import check_invariants

from astra_sim import Graph, NodeKind
from inference_serving import controller
from inference_serving.graph_generator import build_graphs
from inference_serving.latencies import open_latencies
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.simulation import Simulation, SimulationStallError


class Traces:
    """Keeps every trace that is submitted."""

    def __init__(self) -> None:
        self.all = []

    def on_submit(self, instance, trace, ticket) -> None:
        self.all.append((instance.instance_id, trace))

    def on_iteration(self, now_ns, instance, batch, outcome) -> None:
        pass


def moe_stage_ns(tokens: int, blocks: int, rank_counts: list[int], *, first: bool, last: bool) -> int:
    """Time of a stage of the tiny mixture of experts on one NPU, collectives left out."""
    layer = 1000 + 10 * tokens
    attention = 500 + tokens * tokens
    block = (len(MOE_BLOCK) - 2) * layer + attention + expert_ns(np.array(rank_counts))
    edges = first * (int(4 * tokens / 256) + layer) + last * (layer + 1000 + 10)
    return blocks * block + edges


def test_experts_run_in_the_stage_of_their_block(tmp_path):
    cluster = make_cluster(tmp_path, [moe_instance(tmp_path, 2, npu_group=2)])
    run = simulate(cluster, requests((16, 1)), latency=MoeLatency())
    # 16 tokens at 2 of 8 experts each; three blocks are cut into two and one
    each = [4] * 8
    way = moe_stage_ns(16, 2, each, first=True, last=False) + moe_stage_ns(
        16, 1, each, first=False, last=True
    )
    assert run.finished[0].end_ns == way + hop_ns(16)
    assert run.instances[0].isolated_prefill_ns(16) == way + hop_ns(16)


def grid(
    folder, dp: int, tp: int, pp: int, config: SimulationConfig | None = None, ep_size: int | None = None
):
    """``dp`` instances of one group, each ``pp`` stages of ``tp`` ranks, experts spread over each stage's ranks."""
    ep_size = dp * tp if ep_size is None else ep_size
    one = moe_instance(folder, tp * pp, npu_group=pp, ep_size=ep_size, dp_group="A")
    return make_cluster(folder, [one] * dp, config)


@pytest.mark.parametrize("sizes", [(2, 1, 2), (2, 2, 2), (4, 1, 3)])
def test_the_whole_group_goes_through_a_stage_together(tmp_path, sizes):
    traces = Traces()
    run = simulate(grid(tmp_path, *sizes), requests((50, 3)), observers=[traces], latency=MoeLatency())
    dp, _, pp = sizes
    assert [one.iterations for one in run.instances.values()] == [3] + [0] * (dp - 1)
    assert len(traces.all) == 3 * pp * dp
    stages = [trace.shape.stage.part for _, trace in traces.all]
    assert stages == [stage for _ in range(3) for stage in range(pp) for _ in range(dp)]
    busy = {tuple(one.stage_busy_ns) for one in run.instances.values()}
    assert len(busy) == 1  # dummies take as long as the one that has work
    # the prompt, two decode tokens, and a dummy token for each other instance and wave
    tokens = 52 + 3 * (dp - 1)
    assert run.counters.p2p_bytes == (pp - 1) * tokens * HOP_BYTES_PER_TOKEN


@pytest.mark.parametrize("sizes", [(2, 1, 2), (2, 2, 2)])
def test_a_prompt_in_a_group_takes_what_was_predicted_with_dummies_beside_it(tmp_path, sizes):
    run = simulate(grid(tmp_path, *sizes), requests((50, 1)), latency=MoeLatency())
    assert run.finished[0].end_ns == run.instances[0].isolated_prefill_ns(50)


lengths = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 6)), min_size=1, max_size=12)


@settings(max_examples=25)
@given(
    lengths,
    st.sampled_from([(2, 2, 2, 4), (2, 2, 2, 2), (2, 2, 2, 1), (2, 1, 3, 2), (4, 1, 2, 4)]),
    st.sampled_from(["FAST", "RR", "RAND", "POWERLAW"]),
    st.integers(0, 100_000),
)
def test_grids_never_hang_whatever_the_load(tmp_path_factory, work, sizes, policy, gap_ns):
    dp, tp, pp, ep_size = sizes
    config = SimulationConfig(
        SchedulerSettings(max_num_batched_tokens=64), expert_routing_policy=policy, seed=1
    )
    cluster = grid(tmp_path_factory.mktemp("grid"), dp, tp, pp, config, ep_size)
    workload = requests(*work, gap_ns=gap_ns)
    check_invariants(simulate(cluster, workload, config, latency=MoeLatency()), workload)


def test_a_grid_with_all_work_at_one_instance_ends(tmp_path):
    """2 x 2 x 2 NPUs; every second request is long, and round robin sends all of those to one instance."""
    config = SimulationConfig(SchedulerSettings(max_num_batched_tokens=64))
    work = requests(*[(300, 20), (1, 1)] * 20)
    run = simulate(grid(tmp_path, 2, 2, 2, config), work, config, latency=MoeLatency())
    check_invariants(run, work)


def blocks_of(partition: tuple[int, ...]) -> list[int]:
    """The stage of every block."""
    return [stage for stage, blocks in enumerate(partition) for _ in range(blocks)]


@pytest.mark.parametrize(
    ("prefill", "decode"),
    [((3, 1), (2, 2)), ((2, 2), (3, 1)), ((1, 2), (4, 1)), ((4, 1), (1, 2)), ((2, 1), (2, 1))],
)
def test_each_stage_sends_the_kv_of_its_blocks_to_who_holds_them(tmp_path, prefill, decode):
    sections = [pp_instance(tmp_path, *prefill, "prefill"), pp_instance(tmp_path, *decode, "decode")]
    cluster, traces = pp_cluster(tmp_path, sections), Traces()
    run = simulate(cluster, requests((40, 3)), observers=[traces])
    source, target = cluster.instances
    holders = blocks_of(target.partition or (BLOCKS,))
    owners = blocks_of(source.partition or (BLOCKS,))
    sent: Counter[int] = Counter()
    for trace in (trace for instance_id, trace in traces.all if instance_id == 0):
        for npu, graph in zip(trace.shape.npus, build_graphs(trace.shape), strict=True):
            for node in graph.nodes:
                if node.kind is not NodeKind.SEND or "kv" not in node.name:
                    continue
                block = (int(node.name.split("_")[1]) - 5) // 12  # rope is row 5, 17, ... of the whole model
                assert npu // source.tp_size == owners[block]
                receiver = trace.shape.npus[node.peer] - target.npus[0]
                assert receiver // target.tp_size == holders[block]
                sent[block] += int(trace.sizes[node.size_slot])
    copies = max(target.tp_size // 4, 1)
    assert sent == dict.fromkeys(range(BLOCKS), 40 * KV_BYTES_PER_TOKEN // BLOCKS * copies)
    assert len(run.finished) == 1


def test_kv_of_the_last_stage_lands_last(tmp_path):
    """On links that take long for KV, decode starts when the last block's KV has landed."""
    sections = [pp_instance(tmp_path, 2, 1, "prefill"), pp_instance(tmp_path, 2, 1, "decode")]
    run = simulate(pp_cluster(tmp_path, sections, link_bw=0.05), requests((40, 2)))
    first, second = run.finished[0].token_times_ns().tolist()
    block_ns = KV_BYTES_PER_TOKEN // BLOCKS * 40 / (0.05 * 2**30) * 1e9
    # stage 1 begins when the activations are there, and its three blocks' KV take turns into one NPU
    assert second - first > 2 * block_ns


@pytest.mark.parametrize("tp_size", [1, 2])
def test_a_stage_whose_input_never_comes_is_named_within_a_second(tmp_path, monkeypatch, tp_size):
    """One rank forgets to send its activations: the receive that waits for them is found at once."""

    def without_a_send(shape):
        graphs = build_graphs(shape)
        kept = tuple(node for node in graphs[0].nodes if node.kind is not NodeKind.SEND)
        return [Graph(kept), *graphs[1:]]

    monkeypatch.setattr(controller, "build_graphs", without_a_send)
    cluster = pp_cluster(tmp_path, [pp_instance(tmp_path, 2, tp_size)])
    begin = time.process_time()
    with pytest.raises(SimulationStallError) as error:
        simulate(cluster, requests(*[(40, 3)] * 5))
    assert time.process_time() - begin < 1
    assert f"NPU {tp_size}, node 0 (activations_from_stage_0) waits for" in str(error.value)
    assert "from NPU 0, which has no such send left" in str(error.value)


def test_a_group_wants_equal_stages(tmp_path):
    one = moe_instance(tmp_path, 2, npu_group=2, ep_size=2, dp_group="A")
    other = {**one, "pp_layer_partition": [1, 2]}
    with pytest.raises(Exception, match="its instances must have the same pipeline stages"):
        make_cluster(tmp_path, [one, other], replace(SimulationConfig()))


@settings(max_examples=15)
@given(lengths, st.sampled_from([1, 2]), st.integers(0, 100_000), st.booleans())
def test_invariants_hold_with_attention_in_memory(tmp_path_factory, work, tp_size, gap_ns, short_of_kv):
    folder = tmp_path_factory.mktemp("pim")
    section = instance(folder, 2 * tp_size, npu_group=2)
    if short_of_kv:
        section["npu_mem"]["kv_blocks"] = 25
    config = replace(OFFLOADED, scheduler=SchedulerSettings(max_num_batched_tokens=64))
    workload = requests(*work, gap_ns=gap_ns)
    check_invariants(simulate(pim_cluster(folder, [section], 8, config), workload, config), workload)


def test_prefill_policies_order_prompts_of_whom_has_one_stage(tmp_path):
    """A decode instance has no prompts to order, so it may have stages beside them."""
    config = SimulationConfig(SchedulerSettings(scheduling_policy="srpt"))
    sections = [pp_instance(tmp_path, 1, 1, "prefill"), pp_instance(tmp_path, 3, 1, "decode")]
    work = requests(*[(300, 5), (20, 3)] * 4)
    check_invariants(simulate(pp_cluster(tmp_path, sections, config), work, config), work)


def test_attention_in_memory_runs_for_the_stage_of_its_block(tmp_path):
    """Two stages of a block each take what one takes for both, and the way between them."""
    gaps = []
    for stages in (1, 2):
        cluster = pim_cluster(tmp_path, [instance(tmp_path, stages, npu_group=stages)], channels=4)
        run = simulate(cluster, requests((100, 4)), OFFLOADED)
        gaps.append(np.diff(run.requests[0].token_times_ns(), prepend=0).tolist())
    assert gaps[1] == [gaps[0][0] + hop_ns(100), *(gap + hop_ns(1) for gap in gaps[0][1:])]


@pytest.mark.parametrize("partition", [[1, 26], [13, 14]])
def test_blocks_of_two_kinds_run_in_their_stages(tmp_path, partition):
    """A dense first block, latent attention and shared experts: the stages take what the whole model takes."""
    ends = []
    for stages in (1, 2):
        section = pp_instance(tmp_path, stages, partition=partition if stages > 1 else None)
        section |= {"model_name": "deepseek-ai/DeepSeek-V2-Lite", "npu_mem": {"mem_size": 80, "mem_bw": 3350}}
        cluster = pp_cluster(tmp_path, [section])
        run = Simulation(
            cluster, requests((500, 1)), SimulationConfig(), open_latencies(cluster, SimulationConfig())
        )
        run.run()
        ends.append(run.finished[0].end_ns)
        assert run.instances[0].isolated_prefill_ns(500) == ends[-1]
    hidden = 2048
    assert ends[1] - ends[0] == int(2 * hidden * 2 * 500 / (112 * 2**30) * 1e9)
