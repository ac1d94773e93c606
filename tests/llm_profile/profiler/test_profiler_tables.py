"""Tables of measured points, read back by the readers that a simulation uses."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_measurer import ALPHA, FUSED, IDENTITY, SPLIT, TINY, TINY_MOE, FakeMeasurer, attention_ns, layer_ns

from astra_sim.input_error import InputError
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.profiler.bundle import bundle_files
from llm_profile.profiler.meta import meta_text
from llm_profile.profiler.plan import Grid, Kind, Layout, Part, Point, plan
from llm_profile.profiler.samples import Stats
from llm_profile.profiler.skew_fit import fit_buckets, skew_samples
from llm_profile.profiler.store import write_tables
from llm_profile.profiler.tables import v1_files

GRID = Grid(max_tokens=64, max_seqs=8, max_context=256)
NONE = np.array([], dtype=np.int64)


def measured(model=TINY, part=Part.ALL, layout=Layout.BOTH):
    measurer = FakeMeasurer(model)
    return {point: measurer.measure(point) for point in plan(model, GRID, layout, part)}


def query(root, model=TINY):
    return LatencyQuery("CARD", model, 1, profile_dir=root)


def write_v1(root, points, model=TINY):
    files = v1_files(points, model, 1)
    folder = Path("CARD") / model.name / "tp1"
    return write_tables(root, {folder / n: t for n, t in files.items()}, query(root, model), "tables")


def write_bundle(root, points, model=TINY):
    folder = Path("CARD") / model.name / "bf16"
    buckets = fit_buckets(skew_samples(points))
    files = {folder / "tp1" / n: t for n, t in bundle_files(points, buckets).items()}
    files[folder / "meta.yaml"] = meta(root / folder / "meta.yaml", 1, buckets)
    return write_tables(root, files, query(root, model), "bundle")


def meta(file, tp_size, buckets=()):
    return meta_text(
        file,
        identity=IDENTITY,
        model=TINY,
        tp_size=tp_size,
        variant="bf16",
        grid=GRID,
        repeats=5,
        buckets=buckets,
    )


def one(latency, layer, n):
    return int(latency.layer_ns(layer, np.array([n]))[0])


def test_v1_tables_give_back_the_medians(tmp_path):
    write_v1(tmp_path, measured())
    latency = open_latency_model(query(tmp_path), "tables")
    for name in SPLIT:
        assert one(latency, name, 45) == layer_ns(name, 45)
    assert one(latency, "lm_head", 8) == layer_ns("lm_head", 8)
    assert latency.attention_ns(np.array([32]), np.array([0]), NONE) == attention_ns(32, 0, 0, 0)
    assert latency.attention_ns(np.array([32]), np.array([128]), NONE) == attention_ns(32, 128, 0, 0)
    assert latency.attention_ns(NONE, NONE, np.full(8, 64)) == attention_ns(0, 0, 8, 64)


def test_bundles_give_back_the_medians(tmp_path):
    write_bundle(tmp_path, measured())
    latency = open_latency_model(query(tmp_path), "bundle")
    fused = sum(one(latency, name, 45) for name in ("q_proj", "k_proj", "v_proj"))
    assert fused == layer_ns("qkv_proj", 45)
    assert one(latency, "post_layernorm", 45) == layer_ns("layernorm", 45)
    assert one(latency, "lm_head", 8) == layer_ns("lm_head", 8) + layer_ns("sampler", 8)
    mixed = latency.attention_ns(np.array([64]), np.array([0]), np.full(8, 64))
    assert mixed == pytest.approx(attention_ns(64, 0, 8, 64), rel=1e-4)


@pytest.mark.parametrize("chunk", [0, 64])
def test_an_uneven_batch_lies_where_it_was_measured(tmp_path, chunk):
    write_bundle(tmp_path, measured())
    latency = open_latency_model(query(tmp_path), "bundle")
    kv = np.array([256] * 2 + [64] * 6)
    mean, longest = attention_ns(chunk, 0, 8, kv.mean()), attention_ns(chunk, 0, 8, 256)
    prefill = np.array([chunk] if chunk else [], dtype=np.int64)
    expected = mean + ALPHA * (longest - mean)
    assert latency.attention_ns(prefill, 0 * prefill, kv) == pytest.approx(expected, rel=1e-4)


def test_columns_are_the_published_ones():
    v1, bundle = v1_files(measured(), TINY, 1), bundle_files(measured(TINY_MOE), [])
    header = {
        name: text.partition("\n")[0]
        for name, text in {**v1, **{"b/" + k: t for k, t in bundle.items()}}.items()
    }
    assert header["layers.csv"] == "layer_name,input,kv_cache,tp_size,latency(ns)"
    assert header["attention.csv"] == (
        "time_stats.attn_prefill.min,time_stats.attn_prefill.max,time_stats.attn_prefill.mean,"
        "time_stats.attn_prefill.median,time_stats.attn_prefill.std,time_stats.attn_decode.min,"
        "time_stats.attn_decode.max,time_stats.attn_decode.mean,time_stats.attn_decode.median,"
        "time_stats.attn_decode.std,n_embd,n_q_head,n_kv_head,num_tensor_parallel_workers,max_model_len,batch_size,"
        "prefill_chunk_size,kv_cache_size,is_prefill,attention_backend"
    )
    assert header["b/dense.csv"] == "layer,tokens,time_us"
    assert header["b/per_sequence.csv"] == "layer,sequences,time_us"
    assert header["b/attention.csv"] == "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    assert header["b/moe.csv"] == "tokens,activated_experts,time_us"
    assert (
        header["b/skew.csv"]
        == "regime,n,nb,ratio,skew,pc,kp,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us,alpha"
    )


def test_chunks_count_all_their_keys_and_decodes_the_kv_of_the_batch():
    points = {
        Point(Kind.ATTENTION, (16, 48, 0, 0)): {"attn": Stats.of([1e6, 3e6])},
        Point(Kind.ATTENTION, (0, 0, 4, 100)): {"attn": Stats.of([5e6])},
        Point(Kind.ATTENTION, (16, 0, 4, 100)): {"attn": Stats.of([7e6])},
    }
    decode, prefill = v1_files(points, TINY, 2)["attention.csv"].splitlines()[1:]
    assert prefill == "1,3,2,2,1,,,,,,64,4,2,2,512,1,16,64,True,TORCH_SDPA"
    assert decode == ",,,,,5,5,5,5,0,64,4,2,2,512,4,0,400,False,TORCH_SDPA"


def test_fused_layers_are_those_of_published_bundles():
    names = {row.split(",")[0] for row in bundle_files(measured(), [])["dense.csv"].splitlines()[1:]}
    assert names == set(FUSED)


def test_tables_of_a_mixture_of_experts_are_readable(tmp_path):
    points = measured(TINY_MOE)
    write_v1(tmp_path, points, TINY_MOE)
    rows = (tmp_path / "CARD/org/tiny-moe/tp1/layers.csv").read_text()
    assert all(f"\n{name},64,0,1," in rows for name in ("gate", "expert.w1", "expert.w2", "expert.w3"))
    assert "\n64,8,8.64\n" in bundle_files(points, [])["moe.csv"]


def test_one_part_is_written_alone_and_read_with_the_other(tmp_path):
    (layers,) = write_v1(tmp_path, measured(part=Part.LAYERS, layout=Layout.V1))
    assert layers.name == "layers.csv"
    write_v1(tmp_path, measured(part=Part.ATTENTION))
    assert open_latency_model(query(tmp_path), "tables").name == "tables:CARD/org/tiny/tp1"


def test_tables_that_the_reader_refuses_leave_the_old_ones(tmp_path):
    write_bundle(tmp_path, measured())
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    broken = measured()
    broken[Point(Kind.ATTENTION, (64, 0, 0, 0))] = {"attn": Stats.of([1.0])}
    with pytest.raises(InputError, match="no device is that fast"):
        write_bundle(tmp_path, broken)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_meta_keeps_other_tensor_parallel_sizes_that_are_there(tmp_path):
    file = tmp_path / "meta.yaml"
    (tmp_path / "tp2").mkdir()
    file.write_text("tp_degrees: [2, 4]\nskew_fit: {per_tp: {2: {n_samples: 3}, 4: {n_samples: 5}}}\n")
    found = yaml.safe_load(meta(file, 1))
    assert found["tp_degrees"] == [1, 2]
    assert list(found["skew_fit"]["per_tp"]) == [2]
    assert found["engine_effective"]["kv_cache_dtype"] == "bfloat16"


def test_a_broken_meta_is_not_overwritten(tmp_path):
    (tmp_path / "meta.yaml").write_text("a: [")
    with pytest.raises(InputError, match="nothing is added to it"):
        meta(tmp_path / "meta.yaml", 1)
