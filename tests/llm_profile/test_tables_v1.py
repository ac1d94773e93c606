import numpy as np
import pytest
from synthetic_tables import decode_ns, layer_ns, prefill_ns, tokens, write_attention, write_layers

from astra_sim.input_error import InputError
from llm_profile.latency import LatencyQuery, Source, open_latency_model
from llm_profile.layers import LAYERS

NONE = tokens()


def open_tables(llama, folder, **options):
    return open_latency_model(LatencyQuery("CARD", llama, 1, profile_dir=folder, **options), "tables")


@pytest.fixture
def model(llama, tables):
    return open_tables(llama, tables())


def test_layers_are_read_interpolated_and_extrapolated(model):
    index = LAYERS.index("q_proj")
    asked = tokens(1, 4, 5, 64, 1000)  # measured at 1, 4, 7, ... 64
    assert model.layer_ns("q_proj", asked).tolist() == [layer_ns(index, n) for n in asked.tolist()]
    assert [model.source("q_proj", n) for n in (4, 5, 65)] == [
        Source.MEASURED,
        Source.INTERPOLATED,
        Source.EXTRAPOLATED,
    ]
    assert model.name == "tables:CARD/meta-llama/Llama-3.1-8B/tp1"
    assert model.step_overhead_ns == 0


@pytest.mark.parametrize(("n", "context"), [(32, 0), (64, 256), (48, 100), (100, 640), (128, 5000)])
def test_prefill_is_linear_between_and_beyond_contexts(model, n, context):
    assert model.attention_ns(tokens(n), tokens(context), NONE) == prefill_ns(n, context)


@pytest.mark.parametrize(
    ("n", "kv"), [(1, 1), (1, 777), (2, 1500), (4, 100), (8, 300), (16, 500), (8, 100_000)]
)
def test_decode_is_linear_in_requests_and_total_kv(model, n, kv):
    assert model.attention_ns(NONE, NONE, np.full(n, kv)) == pytest.approx(decode_ns(n, n * kv), abs=1)


def test_decode_depends_on_the_sum_of_uneven_kv(model):
    even, uneven = tokens(500, 500, 500, 500), tokens(100, 300, 700, 900)
    assert model.attention_ns(NONE, NONE, even) == model.attention_ns(NONE, NONE, uneven)


def test_a_decode_batch_takes_at_least_its_longest_request_alone(llama, tmp_path):
    folder = tmp_path / "CARD" / llama.name / "tp1"
    write_layers(folder)
    file = write_attention(folder)
    rows = [row for row in file.read_text().splitlines() if ",32,8,1,1,0," not in row]
    rows += [f",{kv * 50 / 1e6},32,8,1,1,0,{kv},False" for kv in (40, 300, 4096)]  # a request: 50 ns a token
    file.write_text("\n".join(rows) + "\n")
    model = open_tables(llama, tmp_path)
    assert model.attention_ns(NONE, NONE, tokens(4000, 10, 10, 10)) == 50 * 4000


def test_prefills_are_priced_one_by_one_with_one_launch(model):
    q, context = tokens(64, 128), tokens(1024, 0)
    launch = min(prefill_ns(32, 0), decode_ns(1, 1))
    both = model.attention_ns(q, context, NONE)
    assert both == prefill_ns(64, 1024) + prefill_ns(128, 0) - launch
    assert both != model.attention_ns(tokens(192), tokens(1024), NONE)
    decode = tokens(300, 300)
    assert model.attention_ns(q, context, decode) == both + decode_ns(2, 600) - launch
    assert model.attention_ns(NONE, NONE, NONE) == 0


def test_no_request_is_cheaper_than_reading_its_kv(llama, tables):
    slow = open_tables(llama, tables(), mem_bw_gbps=0.1)  # 4096 bytes a token at 0.1 bytes a ns
    assert slow.attention_ns(tokens(32), tokens(968), NONE) == 40_960 * 1000
    assert slow.attention_ns(NONE, NONE, tokens(400, 600)) == 40_960 * 1000


def test_prompts_of_layers_csv_are_the_chunks_without_context(llama, tables):
    folder = tables()
    file = folder / "CARD" / llama.name / "tp1" / "layers.csv"
    rows = "".join(f"attn,{n},0,1,{10 * n * n}\n" for n in range(1, 513))
    file.write_text(file.read_text() + rows)
    model = open_tables(llama, folder)
    assert model.attention_ns(tokens(512), tokens(0), NONE) == 10 * 512 * 512
    doubled = model.attention_ns(tokens(1024), tokens(0), NONE)
    assert doubled == pytest.approx(10 * 1024 * 1024)  # pairs: four times as many
    assert model.attention_ns(tokens(512), tokens(512), NONE) == pytest.approx(3 * 10 * 512 * 512)


def test_tpu_tables_have_kv_per_request_and_fused_qkv(llama, tmp_path):
    folder = tmp_path / "CARD" / llama.name / "tp1"
    write_layers(folder, tuple(layer for layer in LAYERS if layer not in ("k_proj", "v_proj")))
    rows = ["prefill_chunk_size,kv_cache_size,batch_size,is_prefill,mean_ns,p50_ns,p90_ns,max_ns"]
    rows += [f"32,{c},1,True,0,{prefill_ns(32, c)},0,0" for c in (0, 1024)]
    rows += [f"0,{kv},{n},False,0,{decode_ns(n, n * kv)},0,0" for n in (1, 4) for kv in (1, 1000)]
    (folder / "attention.csv").write_text("\n".join(rows) + "\n")
    model = open_tables(llama, tmp_path)
    assert model.layer_ns("k_proj", tokens(1, 9000)).tolist() == [0, 0]
    assert model.attention_ns(NONE, NONE, tokens(500, 500, 500, 500)) == decode_ns(4, 2000)


def test_predictions_are_read_only_without_measurements(llama, tables):
    root = tables()
    folder = root / "CARD" / llama.name / "tp1"
    grids = folder / "predictions"
    grids.mkdir()
    (grids / "attn_prefill_predictions.csv").write_text(
        "kv_cache_size,prefill_chunk_size,prediction\n0,32,9000\n1024,32,19000\n0,64,9500\n1024,64,20000\n"
    )
    (grids / "attn_decode_predictions.csv").write_text(
        "batch_size,kv_cache_size,prediction\n1,0,9000\n1,64,9100\n1,1024,10000\n2,64,9200\n2,1024,10100\n"
    )
    measured = open_tables(llama, root).attention_ns(tokens(32), tokens(0), NONE)
    (folder / "attention.csv").unlink()
    predicted = open_tables(llama, root)
    assert measured == prefill_ns(32, 0)
    assert predicted.attention_ns(tokens(32), tokens(0), NONE) == 9000
    assert predicted.attention_ns(NONE, NONE, tokens(1024)) == 10_000


@pytest.mark.parametrize(("option", "bits"), [("weight_bits", 8), ("kv_bits", 8), ("weight_bits", 32)])
def test_other_precisions_are_refused(llama, tables, option, bits):
    folder = tables()
    with pytest.raises(InputError) as caught:
        open_tables(llama, folder, **{option: bits})
    assert f"{option}: {bits}: these tables were measured with 16 bits" in str(caught.value)


def test_a_bandwidth_other_than_the_measured_cards_is_refused(llama, tables):
    folder = tables("A6000")
    query = LatencyQuery("A6000", llama, 1, profile_dir=folder, mem_bw_gbps=1500)
    with pytest.raises(InputError, match="1500 GB/s: these tables were measured on a card with 768 GB/s"):
        open_latency_model(query, "tables")
    assert open_latency_model(query).name == "calibrated:A6000"


def test_missing_layers_are_named(llama, tables):
    folder = tables(layers=tuple(layer for layer in LAYERS if layer not in ("o_proj", "lm_head")))
    with pytest.raises(InputError, match=r"layer_name: no rows for o_proj, lm_head"):
        open_tables(llama, folder)
