"""Every reader of tables in the published layout refuses what cannot have been measured, by file and line.

Each class of defect is tried on each file: columns, rows, numbers, units, and times that fall or leap.
"""

from pathlib import Path

import pytest
from defects import added, line, nothing, only_header, refusal, replaced, scaled, without
from synthetic_tables import decode_ns, prefill_ns, write_attention, write_layers

TPU_HEADER = "prefill_chunk_size,kv_cache_size,batch_size,is_prefill,p50_ns"


@pytest.fixture
def v1(llama, tmp_path) -> Path:
    """Tables of card CARD in the published layout."""
    folder = tmp_path / "CARD" / llama.name / "tp1"
    write_layers(folder)
    write_attention(folder)
    return folder


def write_tpu_attention(folder: Path) -> None:
    rows = [f"32,{c},1,True,{prefill_ns(32, c)}" for c in (0, 1024)]
    rows += [f"0,{kv},{n},False,{decode_ns(n, n * kv)}" for n in (1, 4) for kv in (1, 1000)]
    (folder / "attention.csv").write_text("\n".join([TPU_HEADER, *rows]) + "\n")


def write_predictions(tables: Path) -> None:
    (tables / "attention.csv").unlink()
    folder = tables / "predictions"
    folder.mkdir()
    rows = [f"{c},{n},{3 * prefill_ns(n, c)}" for c in (0, 64, 1024) for n in (32, 64)]
    (folder / "attn_prefill_predictions.csv").write_text(
        "\n".join(["kv_cache_size,prefill_chunk_size,prediction", *rows]) + "\n"
    )
    rows = [f"{n},{kv},{3 * decode_ns(n, kv)}" for n in (1, 2) for kv in (0, 64, 1024)]
    (folder / "attn_decode_predictions.csv").write_text(
        "\n".join(["batch_size,kv_cache_size,prediction", *rows]) + "\n"
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (
            line(1, "layer_name,input,kv_cache,latency(ns)"),
            "line 1: no column tp_size; columns are layer_name,input,kv_cache,latency(ns)",
        ),
        (
            line(1, "layer_name,input,kv_cache,tp_size,latency(us)"),
            "line 1: no column latency(ns); times must be in nanoseconds, not latency(us)",
        ),
        (
            line(1, "layer_name,input,kv_cache,tp_size,latency(ns),input"),
            "line 1: the column input is there twice",
        ),
        (line(3, "embedding,4,0,1"), "line 3: 4 cells instead of 5: ['embedding', '4', '0', '1']"),
        (line(3, "embedding,4,0,1,"), "line 3: latency(ns) is '': not a number"),
        (line(3, "embedding,4,0,1,nan"), "line 3: latency(ns) is nan: must be finite"),
        (line(3, "embedding,4,0,1,-5"), "line 3: latency(ns) is -5: must be above 0"),
        (line(3, "embedding,4,0,1,0"), "line 3: latency(ns) is 0: must be above 0"),
        (line(3, "embedding,0,0,1,9"), "line 3: input is 0: must be a whole number >= 1"),
        (line(3, "embedding,4.5,0,1,9"), "line 3: input is 4.5: must be a whole number >= 1"),
        (line(3, "embedding,4,0,2,1040"), "line 3: tp_size is 2, not 1 as its folder tp1 says"),
        (added("q_proj,4,0,1,3120"), "line 310: repeats input=4 of line 47"),
        (
            added("q_proj,65,0,1,200"),
            "line 310: q_proj with input = 65 takes 200 ns, but 4920 ns with 64: cannot be",
        ),
        (
            added("q_proj,65,0,1,200000"),
            "line 310: q_proj with input = 65 takes 200000 ns, but 4920 ns with 64: cannot be",
        ),
        (
            scaled(1e-3, 4),
            "line 24: input_layernorm with 1 takes 2.02 ns: no device is that fast; are these nanoseconds?",
        ),
        (
            scaled(1e-6, 4),
            "line 24: input_layernorm with 1 takes 0.00202 ns: no device is that fast; are these nanoseconds?",
        ),
        (
            scaled(1e3, 4),
            "line 156: post_layernorm with 1 takes 9.09e+06 ns: no device is that slow; are these nanoseconds?",
        ),
        (
            scaled(1e6, 4),
            "line 24: input_layernorm with 1 takes 2.02e+09 ns: no device is that slow; are these nanoseconds?",
        ),
        (replaced("embedding", "embeding"), "layer_name: no rows for embedding"),
    ],
)
def test_layers(llama, tmp_path, v1, edit, message):
    assert refusal(llama, tmp_path, v1 / "layers.csv", edit) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (
            replaced("n_q_head", "heads"),
            "line 1: no column n_q_head; columns are time_stats.attn_prefill.median,time_stats.attn_decode.median,"
            "heads,n_kv_head,num_tensor_parallel_workers,batch_size,prefill_chunk_size,kv_cache_size,is_prefill",
        ),
        (
            line(2, "0.002096,,32,8,1,1,32,0"),
            "line 2: 8 cells instead of 9: ['0.002096', '', '32', '8', '1', '1', '32', '0']",
        ),
        (line(2, "x,,32,8,1,1,32,0,True"), "line 2: time_stats.attn_prefill.median is 'x': not a number"),
        (line(2, ",,32,8,1,1,32,0,True"), "line 2: time_stats.attn_prefill.median is '': not a number"),
        (line(2, "nan,,32,8,1,1,32,0,True"), "line 2: time_stats.attn_prefill.median is nan: must be finite"),
        (line(2, "-1,,32,8,1,1,32,0,True"), "line 2: time_stats.attn_prefill.median is -1: must be above 0"),
        (line(2, "0,,32,8,1,1,32,0,True"), "line 2: time_stats.attn_prefill.median is 0: must be above 0"),
        (line(2, "0.002096,,64,8,1,1,32,0,True"), "line 2: n_q_head is 64, not 32"),
        (line(2, "0.002096,,32,8,2,1,32,0,True"), "line 2: num_tensor_parallel_workers is 2, not 1"),
        (line(2, "0.002096,,32,8,1,1,32,0,yes"), "line 2: is_prefill is 'yes': must be True or False"),
        (
            line(2, "0.002096,,32,8,1,1,0,0,True"),
            "line 2: prefill_chunk_size is 0: must be a whole number >= 1",
        ),
        (
            added("0.02,,32,8,1,1,32,256,True"),
            "line 21: takes 0.02 ms, but line 3 says that the same takes 0.003376 ms",
        ),
        (
            added("0.0002,,32,8,1,1,32,2048,True"),
            "line 21: takes 0.0002 ms, but 0.007216 ms with context 1024 instead of 2048: cannot be",
        ),
        (
            added("9,,32,8,1,1,32,2048,True"),
            "line 21: takes 9 ms, but 0.007216 ms with context 1024 instead of 2048: cannot be",
        ),
        (
            added(",0.0002,32,8,1,8,0,65536,False"),
            "line 21: a decode of 8 with 65536 of KV takes 0.0002 ms: no device is that fast; are these milliseconds?",
        ),
        (
            added(",900,32,8,1,8,0,65536,False"),
            "line 21: a decode of 8 with 65536 of KV takes 900 ms: no device is that slow; are these milliseconds?",
        ),
        (
            scaled(1e3, 0),
            "line 13: a decode of 1 with 4096 of KV takes 30.772 ms: no device is that slow; are these milliseconds?",
        ),
        (
            scaled(1e6, 0),
            "line 2: a chunk of 32 on 0 takes 2096 ms: no device is that slow; are these milliseconds?",
        ),
        (
            scaled(1e-3, 0),
            "line 2: a chunk of 32 on 0 takes 2.096e-06 ms: no device is that fast; are these milliseconds?",
        ),
        (without("False"), "is_prefill: no decode rows"),
    ],
)
def test_attention_of_a_gpu(llama, tmp_path, v1, edit, message):
    assert refusal(llama, tmp_path, v1 / "attention.csv", edit) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (
            line(1, TPU_HEADER.replace("batch_size", "batch")),
            "line 1: no column batch_size; columns are prefill_chunk_size,kv_cache_size,batch,is_prefill,p50_ns",
        ),
        (line(2, "32,0,1,True,nan"), "line 2: p50_ns is nan: must be finite"),
        (line(2, "32,0,1,True,0"), "line 2: p50_ns is 0: must be above 0"),
        (line(2, "32,0,1,True,-2096"), "line 2: p50_ns is -2096: must be above 0"),
        (line(2, "32,0,1,True"), "line 2: 4 cells instead of 5: ['32', '0', '1', 'True']"),
        (line(2, "32,-1,1,True,2096"), "line 2: kv_cache_size is -1: must be a whole number >= 0"),
        (added("32,1024,1,True,1000"), "line 8: takes 1000 ns, but line 3 says that the same takes 7216 ns"),
        (
            added("32,2048,1,True,700"),
            "line 8: takes 700 ns, but 7216 ns with context 1024 instead of 2048: cannot be",
        ),
        (
            added("32,2048,1,True,9000000"),
            "line 8: takes 9e+06 ns, but 7216 ns with context 1024 instead of 2048: cannot be",
        ),
        (
            added("0,2000,4,False,500"),
            "line 8: takes 500 ns, but 30400 ns with total KV 4000 instead of 8000: cannot be",
        ),
        (
            scaled(1e-3, 4),
            "line 2: a chunk of 32 on 0 takes 2.096 ns: no device is that fast; are these nanoseconds?",
        ),
        (
            scaled(1e-6, 4),
            "line 2: a chunk of 32 on 0 takes 0.002096 ns: no device is that fast; are these nanoseconds?",
        ),
        (
            scaled(1e3, 4),
            "line 5: a decode of 1 with 1000 of KV takes 9.1e+06 ns: no device is that slow; are these nanoseconds?",
        ),
    ],
)
def test_attention_of_a_tpu(llama, tmp_path, v1, edit, message):
    write_tpu_attention(v1)
    assert refusal(llama, tmp_path, v1 / "attention.csv", edit) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (
            line(1, "kv_cache_size,chunk,prediction"),
            "line 1: no column prefill_chunk_size; columns are kv_cache_size,chunk,prediction",
        ),
        (line(1, "kv_cache_size,prefill_chunk_size,ns"), "line 1: no column prediction"),
        (line(2, "0,32,nan"), "line 2: prediction is nan: must be finite"),
        (line(2, "0,32,0"), "line 2: prediction is 0: must be above 0"),
        (line(2, "0,32,-9"), "line 2: prediction is -9: must be above 0"),
        (line(2, "0,32"), "line 2: 2 cells instead of 3: ['0', '32']"),
        (line(2, "-64,32,2096"), "line 2: kv_cache_size is -64: must be a whole number >= 0"),
        (added("0,32,2096"), "line 8: repeats kv_cache_size=0, prefill_chunk_size=32 of line 2"),
        (
            added("2048,32,700"),
            "line 8: takes 700 ns, but 21648 ns with kv_cache_size 1024 instead of 2048: cannot be",
        ),
        (
            added("2048,32,9000000"),
            "line 8: takes 9e+06 ns, but 21648 ns with kv_cache_size 1024 instead of 2048: cannot be",
        ),
        (
            scaled(1e-3, 2),
            "line 2: a chunk of 32 on 0 takes 6.288 ns: no device is that fast; are these nanoseconds?",
        ),
        (
            scaled(1e3, 2),
            "line 2: a chunk of 32 on 0 takes 6.288e+06 ns: no device is that slow; are these nanoseconds?",
        ),
    ],
)
def test_predicted_prefill(llama, tmp_path, v1, edit, message):
    write_predictions(v1)
    assert refusal(llama, tmp_path, v1 / "predictions/attn_prefill_predictions.csv", edit) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (
            line(1, "batch_size,kv,prediction"),
            "line 1: no column kv_cache_size; columns are batch_size,kv,prediction",
        ),
        (line(2, "1,0,inf"), "line 2: prediction is inf: must be finite"),
        (line(2, "1,0,0"), "line 2: prediction is 0: must be above 0"),
        (line(2, "1,0,-9"), "line 2: prediction is -9: must be above 0"),
        (line(2, "0,0,2100"), "line 2: batch_size is 0: must be a whole number >= 1"),
        (line(2, "1,0"), "line 2: 2 cells instead of 3: ['1', '0']"),
        (added("1,64,2548"), "line 8: repeats batch_size=1, kv_cache_size=64 of line 3"),
        (
            added("2,2048,1000"),
            "line 8: takes 1000 ns, but 28104 ns with kv_cache_size 1024 instead of 2048: cannot be",
        ),
        (
            added("2,2048,29000000"),
            "line 8: takes 2.9e+07 ns, but 28104 ns with kv_cache_size 1024 instead of 2048: cannot be",
        ),
        (
            scaled(1e-3, 2),
            "line 3: a decode of 1 with 64 of KV takes 7.644 ns: no device is that fast; are these nanoseconds?",
        ),
        (
            scaled(1e3, 2),
            "line 3: a decode of 1 with 64 of KV takes 7.644e+06 ns: no device is that slow; are these nanoseconds?",
        ),
    ],
)
def test_predicted_decode(llama, tmp_path, v1, edit, message):
    write_predictions(v1)
    assert refusal(llama, tmp_path, v1 / "predictions/attn_decode_predictions.csv", edit) == message
