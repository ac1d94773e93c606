"""The trace of one iteration: rows and bytes by hand, times from the latency source, published rows."""

from __future__ import annotations

import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from clusters import BLOCK, LinearLatency, instance, make_cluster

from inference_serving.request import Batch
from inference_serving.settings import SimulationConfig
from inference_serving.trace import Trace, TraceRow
from inference_serving.trace_generator import TraceGenerator
from inference_serving.trace_shape import DURATION_SLOT
from llm_profile.layers import LAYERS

REFERENCE_DIR = Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[3] / "shared" / "reference")

LLAMA = "meta-llama/Llama-3.1-8B"  # 32 blocks, hidden 4096, 32 heads and 8 K/V heads of 128, mlp 14336
HIDDEN, MLP, KV_WIDTH, VOCABULARY = 4096, 14336, 1024, 128256
KEEPS_ITS_OUTPUT = ("v_proj", "rope")  # k and v meet in rope; attention is shown by its queries


def specs(folder: Path, *npus_and_kind, bits: int = 16, **extra):
    config = SimulationConfig(weight_bits=bits, kv_bits=bits)
    llama = {"model_name": LLAMA, "npu_mem": {"mem_size": 80, "mem_bw": 768}, **extra}
    sections = [instance(folder, *one, **llama) for one in npus_and_kind]
    return make_cluster(folder, sections, config).instances


def batch(*grants_and_context: tuple[int, int]) -> Batch:
    """Rows of (tokens granted, tokens computed before)."""
    grants, context = np.array(grants_and_context, dtype=np.int64).T
    return Batch(grants, context, int(grants.sum()), 0, int(np.count_nonzero(grants)))


def trace_of(spec, work: Batch, kv_tokens=None, decode=(), latency=None) -> Trace:
    generator = TraceGenerator(spec, latency or LinearLatency())
    return generator.synthesize_trace(work, kv_tokens or {}, {one.instance_id: one for one in decode})


def rows_of(spec, work: Batch, kv_tokens=None, decode=()) -> list[TraceRow]:
    return list(trace_of(spec, work, kv_tokens, decode).rows())


def published(name: str) -> list[list[str]]:
    file = REFERENCE_DIR / "published_traces" / name / "iteration_head.txt"
    if not file.is_file():
        pytest.skip("published traces are not here (REFERENCE_DIR)")
    return [line.split() for line in file.read_text().splitlines()]


def without_time(row: TraceRow) -> list[str]:
    """Everything a published row says, except how long the layer takes."""
    return [
        row.name,
        row.input_loc,
        str(row.input_bytes),
        row.weight_loc,
        str(row.weight_bytes),
        row.output_loc,
        str(row.output_bytes),
        row.comm_type,
        str(row.comm_bytes),
        row.misc,
    ]


def test_an_iteration_of_llama_8b_has_387_rows_in_order(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    layers = ["embedding", *BLOCK * 32, "final_layernorm", "lm_head"]
    names = [row.name for row in rows_of(spec, batch((10, 0)))]
    assert len(names) == 387
    assert names == [f"{layer}_{number}" for number, layer in enumerate(layers)]


def by_hand(tokens: int, ranks: int) -> dict[str, tuple[int, int, int]]:
    """Input, weight and output bytes of each layer of one rank in 16 bits."""
    t, q, kv, mlp = 2 * tokens, HIDDEN // ranks, KV_WIDTH // ranks, MLP // ranks
    return {
        "embedding": (4 * tokens, 2 * VOCABULARY // ranks * HIDDEN, t * HIDDEN),
        "input_layernorm": (t * HIDDEN, 2 * HIDDEN, t * HIDDEN),
        "q_proj": (t * HIDDEN, 2 * HIDDEN * q, t * HIDDEN),
        "k_proj": (t * HIDDEN, 2 * HIDDEN * kv, t * HIDDEN),
        "v_proj": (t * HIDDEN, 2 * HIDDEN * kv, t * kv),
        "rope": (t * (q + kv), 0, t * (q + kv)),
        "attn": (t * q, 0, t * q),
        "o_proj": (t * q, 2 * q * HIDDEN, t * HIDDEN),
        "post_layernorm": (t * HIDDEN, 2 * HIDDEN, t * HIDDEN),
        "gate_proj": (t * HIDDEN, 2 * HIDDEN * mlp, t * HIDDEN),
        "up_proj": (t * HIDDEN, 2 * HIDDEN * mlp, t * mlp),
        "act_fn": (t * mlp, 0, t * mlp),
        "down_proj": (t * mlp, 2 * mlp * HIDDEN, t * HIDDEN),
        "final_layernorm": (t * HIDDEN, 2 * HIDDEN, t * HIDDEN),
        "lm_head": (t * HIDDEN, 2 * HIDDEN * VOCABULARY // ranks, 4),
    }


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_bytes_of_every_row_by_hand(tmp_path, ranks):
    (spec,) = specs(tmp_path, (ranks,))
    expected = by_hand(37, ranks)
    for row in rows_of(spec, batch((37, 0))):
        layer = row.name.rsplit("_", 1)[0]
        assert (row.input_bytes, row.weight_bytes, row.output_bytes) == expected[layer], row.name


def test_a_rank_beyond_the_kv_heads_keeps_one_head_of_them(tmp_path):
    (spec,) = specs(tmp_path, (16,))
    rows = rows_of(spec, batch((10, 0)))
    assert [row.output_bytes for row in rows if row.name == "v_proj_4"] == [2 * 10 * 128]
    assert [row.weight_bytes for row in rows if row.name == "k_proj_3"] == [2 * HIDDEN * 128]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_a_row_puts_out_the_next_row_takes_in(tmp_path, ranks):
    (spec,) = specs(tmp_path, (ranks,))
    rows = rows_of(spec, batch((12, 0), (1, 90)))
    for row, following in pairwise(rows):
        if not row.name.startswith(KEEPS_ITS_OUTPUT):
            assert row.output_bytes == following.input_bytes, row.name


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 2), (32, 4)])
def test_precision_scales_weights_and_activations_but_no_token_ids(tmp_path, bits, scale):
    (spec,) = specs(tmp_path, (1,), bits=bits)
    embedding, _, q_proj, *_ = rows_of(spec, batch((10, 0)))
    assert (embedding.input_bytes, embedding.output_bytes) == (40, scale * 10 * HIDDEN)
    assert (q_proj.input_bytes, q_proj.weight_bytes) == (scale * 10 * HIDDEN, scale * HIDDEN * HIDDEN)


def test_only_token_ids_and_sampled_ids_cross_host_memory(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    rows = rows_of(spec, batch((10, 0)))
    places = [(row.name, row.input_loc, row.weight_loc, row.output_loc) for row in rows]
    assert [one for one in places if one[1:] != ("LOCAL", "LOCAL", "LOCAL")] == [
        ("embedding_0", "REMOTE:0", "LOCAL", "LOCAL"),
        ("lm_head_386", "LOCAL", "LOCAL", "REMOTE:0"),
    ]


def test_each_sequence_gets_one_sampled_id(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    *_, head = rows_of(spec, batch((100, 0), (1, 7), (0, 40), (1, 8)))
    assert head.output_bytes == 3 * 4


def test_one_npu_communicates_nothing(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    assert {(row.comm_type, row.comm_bytes) for row in rows_of(spec, batch((10, 0)))} == {("NONE", 0)}


def test_split_layers_reduce_the_hidden_states_of_all_tokens(tmp_path):
    (spec,) = specs(tmp_path, (2,))
    rows = rows_of(spec, batch((30, 0), (1, 5)))
    reduced = [(row.name.rsplit("_", 1)[0], row.comm_bytes) for row in rows if row.comm_type == "ALLREDUCE"]
    assert reduced == [("o_proj", 31 * HIDDEN * 2), ("down_proj", 31 * HIDDEN * 2)] * 32


def test_rope_sends_the_k_and_v_of_the_tokens_that_leave(tmp_path):
    prefill, decode = specs(tmp_path, (1, "prefill"), (1, "decode"))
    rows = rows_of(prefill, batch((10, 0), (20, 5)), {1: 12}, [decode])
    sending = {(r.name.rsplit("_", 1)[0], r.comm_type, r.comm_bytes) for r in rows if r.misc == "KV"}
    assert sending == {("rope", "SEND", 2 * KV_WIDTH * 2 * 12)}
    assert sum(row.misc == "KV" for row in rows) == 32


def test_every_target_has_the_bytes_of_its_own_tokens(tmp_path):
    prefill, first, second = specs(tmp_path, (1, "prefill"), (2, "decode"), (1, "decode"))
    sizes = trace_of(prefill, batch((10, 0), (20, 5)), {2: 20, 1: 10}, [first, second]).sizes
    half, whole = 2 * KV_WIDTH // 2 * 2, 2 * KV_WIDTH * 2
    assert sizes[3:].tolist() == [10 * half, 10 * half, 20 * whole]


def test_kv_bits_decide_what_is_sent(tmp_path):
    prefill, decode = specs(tmp_path, (1, "prefill"), (1, "decode"), kv_cache_dtype="fp8")
    assert trace_of(prefill, batch((10, 0)), {1: 10}, [decode]).sizes[3:].tolist() == [2 * KV_WIDTH * 10]


class Asked(LinearLatency):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, list[int]] = {}
        self.attention: list[tuple[list[int], list[int], list[int]]] = []

    def layer_ns(self, layer, tokens):
        self.counts.setdefault(layer, []).extend(tokens.tolist())
        return super().layer_ns(layer, tokens)

    def attention_ns(self, prefill_q, prefill_context, decode_kv):
        self.attention.append((prefill_q.tolist(), prefill_context.tolist(), decode_kv.tolist()))
        return super().attention_ns(prefill_q, prefill_context, decode_kv)


def test_layers_cost_by_tokens_the_head_by_sequences_and_attention_by_context(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    times = trace_of(spec, batch((30, 10), (1, 99))).durations_ns
    by_layer = {layer: int(times[slot]) for layer, slot in DURATION_SLOT.items() if layer in LAYERS}
    assert by_layer.pop("lm_head") == 1000 + 10 * 2
    assert by_layer.pop("attn") == 500 + 30 * 40 + 100
    assert set(by_layer.values()) == {1000 + 10 * 31}


def test_attention_is_asked_with_chunks_and_decodes_apart(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    latency = Asked()
    trace_of(spec, batch((30, 10), (1, 99), (0, 7), (2, 0), (1, 0)), latency=latency)
    assert latency.attention == [([30, 2], [10, 0], [100, 1])]


def test_rows_show_the_times_of_their_layers(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    times = Counter(row.comp_ns for row in rows_of(spec, batch((10, 0))))
    assert times == {1100: 1 + 32 * 11 + 1, 600: 32, 1010: 1}


def test_an_iteration_changes_nothing_in_the_trace_of_another(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    generator = TraceGenerator(spec, LinearLatency())
    first = generator.synthesize_trace(batch((10, 0)), {}, {})
    before = (first.durations_ns.tolist(), first.sizes.tolist())
    generator.synthesize_trace(batch((4, 4000), (4, 0), (2, 0)), {}, {})
    assert (first.durations_ns.tolist(), first.sizes.tolist()) == before


def test_the_latency_source_is_asked_once_for_each_layer_and_token_count(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    latency = Asked()
    generator = TraceGenerator(spec, latency)
    for tokens in [*range(1, 1200, 7), *range(1200, 1, -7), 3000]:
        generator.synthesize_trace(batch((tokens, 0)), {}, {})
    assert all(len(counts) == len(set(counts)) for counts in latency.counts.values())
    assert len(latency.counts) == 14  # every layer but attention


def test_the_structure_is_shared_by_iterations_with_the_same_targets(tmp_path):
    prefill, *decode = specs(tmp_path, (1, "prefill"), (1, "decode"), (1, "decode"))
    generator = TraceGenerator(prefill, LinearLatency())
    targets = {spec.instance_id: spec for spec in decode}
    shapes = [
        generator.synthesize_trace(batch((tokens, 0)), kv, targets).shape
        for tokens, kv in [
            (10, {}),
            (20, {}),
            (10, {1: 10}),
            (9, {1: 9}),
            (8, {2: 4, 1: 4}),
            (6, {1: 2, 2: 4}),
        ]
    ]
    assert [shapes.index(shape) for shape in shapes] == [0, 0, 2, 2, 4, 4]


def test_one_npu_agrees_with_the_published_rows(tmp_path):
    _, count, _, *expected = published("single")
    (spec,) = specs(tmp_path, (1,))
    rows = rows_of(spec, batch((10, 0)))  # the first prompt of the published example has 10 tokens
    assert [without_time(row) for row in rows[: len(expected)]] == [[e[0], *e[2:]] for e in expected]
    assert [str(len(rows))] == count


def test_two_ranks_agree_with_the_published_rows_but_for_the_split_embedding(tmp_path):
    """Here the vocabulary is split over the ranks, in the published trace it is not."""
    _, count, _, *expected = published("dense_tp2")
    expected[0][5] = str(int(expected[0][5]) // 2)
    (spec,) = specs(tmp_path, (2,))
    rows = rows_of(spec, batch((10, 0)))
    assert [without_time(row) for row in rows[: len(expected)]] == [[e[0], *e[2:]] for e in expected]
    assert [str(len(rows))] == count


def test_a_prefill_instance_agrees_with_the_published_rows_but_for_the_kv_it_sends(tmp_path):
    """Here rope shows the K and V that leave; the published trace shows nothing of its transfer."""
    _, count, _, *expected = published("pd")
    prefill, decode = specs(tmp_path, (1, "prefill"), (1, "decode"))
    rows = rows_of(prefill, batch((10, 0)), {1: 10}, [decode])
    mine = [without_time(row) for row in rows[: len(expected)]]
    for row in mine:
        if row[0].startswith("rope"):
            row[7:] = ["NONE", "0", "NONE"]
    assert mine == [[e[0], *e[2:]] for e in expected]
    assert [str(len(rows))] == count
