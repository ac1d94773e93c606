"""Every reader of a bundle refuses what cannot have been measured, by file and line."""

import pytest
from defects import added, line, nothing, only_header, refusal, scaled, without
from synthetic_bundles import SKEW_HEADER, write_bundle

from astra_sim.input_error import InputError
from llm_profile.latency import LatencyQuery, open_latency_model
from llm_profile.model_config import load_model_config

META = "hardware: CARD\nmodel: meta-llama/Llama-3.1-8B\nvariant: bf16\ntp_degrees: [1, 2]\n"
SKEW = f"{SKEW_HEADER}\n0,n<=2,sr<=5%,kvB<=1k,kp=0,0.1,1\n"


@pytest.fixture
def bundle(llama, tmp_path):
    """A bundle of card CARD."""
    return write_bundle(tmp_path / "CARD" / llama.name / "bf16" / "tp1")


@pytest.mark.parametrize("name", ["dense.csv", "per_sequence.csv", "attention.csv"])
def test_a_missing_file_is_named(llama, tmp_path, bundle, name):
    (bundle / name).unlink()
    with pytest.raises(InputError) as caught:
        open_latency_model(LatencyQuery("CARD", llama, 1, profile_dir=tmp_path))
    assert str(caught.value) == f"{bundle / name}: no such file; the tables beside it need it"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (line(1, "layer,count,time_us"), "line 1: no column tokens; columns are layer,count,time_us"),
        (
            line(1, "layer,tokens,time_ns"),
            "line 1: no column time_us; times must be in microseconds, not time_ns",
        ),
        (line(2, "embedding,1"), "line 2: 2 cells instead of 3: ['embedding', '1']"),
        (line(2, "embedding,1,nan"), "line 2: time_us is nan: must be finite"),
        (line(2, "embedding,1,-1"), "line 2: time_us is -1: must be above 0"),
        (line(2, "embedding,1,0"), "line 2: time_us is 0: must be above 0"),
        (line(2, "embedding,0,1.1"), "line 2: tokens is 0: must be a whole number >= 1"),
        (added("o_proj,16,13"), "line 38: repeats tokens=16 of line 20"),
        (added("o_proj,65,1"), "line 38: o_proj with tokens = 65 takes 1 us, but 37 us with 64: cannot be"),
        (
            added("o_proj,65,1200"),
            "line 38: o_proj with tokens = 65 takes 1200 us, but 37 us with 64: cannot be",
        ),
        (
            scaled(1e-3, 2),
            "line 6: layernorm with 1 takes 0.0022 us: no device is that fast; are these microseconds?",
        ),
        (
            scaled(1e3, 2),
            "line 34: final_layernorm with 1 takes 9900 us: no device is that slow; are these microseconds?",
        ),
        (without("o_proj"), "layer: no rows for o_proj"),
        (added("qk_norm,8,3"), "line 38: qk_norm is not a layer of this model, or its parts are here too"),
    ],
)
def test_dense_layers(llama, tmp_path, bundle, edit, message):
    assert refusal(llama, tmp_path, bundle / "dense.csv", edit) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (line(1, "layer,tokens,time_us"), "line 1: no column sequences; columns are layer,tokens,time_us"),
        (
            line(1, "layer,sequences,latency(ns)"),
            "line 1: no column time_us; times must be in microseconds, not latency(ns)",
        ),
        (line(2, "lm_head,1"), "line 2: 2 cells instead of 3: ['lm_head', '1']"),
        (line(2, "lm_head,1,nan"), "line 2: time_us is nan: must be finite"),
        (line(2, "lm_head,1,-702"), "line 2: time_us is -702: must be above 0"),
        (line(2, "lm_head,1,0"), "line 2: time_us is 0: must be above 0"),
        (line(2, "lm_head,0,702"), "line 2: sequences is 0: must be a whole number >= 1"),
        (added("lm_head,8,716"), "line 8: repeats sequences=8 of line 3"),
        (
            added("lm_head,64,100"),
            "line 8: lm_head with sequences = 64 takes 100 us, but 764 us with 32: cannot be",
        ),
        (
            added("lm_head,64,100000"),
            "line 8: lm_head with sequences = 64 takes 100000 us, but 764 us with 32: cannot be",
        ),
        (
            scaled(1e-3, 2),
            "line 2: lm_head with 1 takes 0.702 us: no device is that fast; its weights alone "
            "take 1050.67 us to read; are these microseconds?",
        ),
        (
            scaled(1e3, 2),
            "line 2: lm_head with 1 takes 702000 us: no device is that slow; other layers here "
            "read weights 23778 times as fast; are these microseconds?",
        ),
        (without("lm_head"), "layer: no rows for lm_head"),
    ],
)
def test_layers_of_a_sequence(llama, tmp_path, bundle, edit, message):
    assert refusal(llama, tmp_path, bundle / "per_sequence.csv", edit) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (
            line(1, "prefill_chunk,kv_prefill,n_decode,kv,time_us"),
            "line 1: no column kv_decode; columns are prefill_chunk,kv_prefill,n_decode,kv,time_us",
        ),
        (
            line(1, "prefill_chunk,kv_prefill,n_decode,kv_decode,time_ms"),
            "line 1: no column time_us; times must be in microseconds, not time_ms",
        ),
        (line(2, "0,0,1,16"), "line 2: 4 cells instead of 5: ['0', '0', '1', '16']"),
        (line(2, "0,0,1,16,nan"), "line 2: time_us is nan: must be finite"),
        (line(2, "0,0,1,16,-6"), "line 2: time_us is -6: must be above 0"),
        (line(2, "0,0,1,16,0"), "line 2: time_us is 0: must be above 0"),
        (line(2, "0,0,1.5,16,6"), "line 2: n_decode is 1.5: must be a whole number >= 0"),
        (
            added("0,0,1,16,6.1"),
            "line 101: repeats prefill_chunk=0, kv_prefill=0, n_decode=1, kv_decode=16 of line 2",
        ),
        (added("0,9,1,16,7"), "line 101: kv_prefill is 9 with prefill_chunk 0: cannot be"),
        (added("16,0,0,16,7"), "line 101: kv_decode is 16 with n_decode 0: cannot be"),
        (added("16,0,4,0,7"), "line 101: kv_decode is 0 with n_decode 4: cannot be"),
        (added("0,0,0,0,7"), "line 101: neither a prefill nor a decode"),
        (
            added("0,0,8,8192,7"),
            "line 101: takes 7 us, but 144.072 us with kv_decode 4096 instead of 8192: cannot be",
        ),
        (
            added("0,0,8,8192,20000"),
            "line 101: takes 20000 us, but 144.072 us with kv_decode 4096 instead of 8192: cannot be",
        ),
        (
            scaled(1e-3, 4),
            "line 2: a decode of 1 with 16 of KV each takes 0.006064 us: no device is that "
            "fast; are these microseconds?",
        ),
        (
            scaled(1e3, 4),
            "line 2: a decode of 1 with 16 of KV each takes 6064 us: no device is that slow; "
            "are these microseconds?",
        ),
        (
            lambda lines: [row for row in lines if not row.startswith("0,")],
            "no rows of n_decode > 0 with prefill_chunk 0",
        ),
        (
            lambda lines: [row for row in lines if row.startswith(("p", "0,"))],
            "no rows of prefill_chunk > 0 with n_decode 0",
        ),
    ],
)
def test_attention(llama, tmp_path, bundle, edit, message):
    assert refusal(llama, tmp_path, bundle / "attention.csv", edit) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (
            line(1, SKEW_HEADER.replace("alpha", "a")),
            "line 1: no column alpha; columns are "
            "pc,n_label,skew_rate_label,kv_big_label,kp_label,a,n_samples",
        ),
        (line(2, "0,n<=2,sr<=5%,kvB<=1k,kp=0,nan,1"), "line 2: alpha is nan: must be finite"),
        (line(2, "0,n<=2,sr<=5%,kvB<=1k,kp=0,,1"), "line 2: alpha is '': not a number"),
        (
            line(2, "0,n<=2,sr<=5%,kvB<=1k,kp=0,0.1"),
            "line 2: 6 cells instead of 7: ['0', 'n<=2', 'sr<=5%', 'kvB<=1k', 'kp=0', '0.1']",
        ),
        (line(2, "-1,n<=2,sr<=5%,kvB<=1k,kp=0,0.1,1"), "line 2: pc is -1: must be a whole number >= 0"),
        (line(2, "0,2,sr<=5%,kvB<=1k,kp=0,0.1,1"), "line 2: n_label is '2': not a label such as n<=8"),
        (added("0,n<=2,sr<=5%,kvB<=1k,kp=0,0.2,1"), "line 3: repeats the bucket of line 2"),
    ],
)
def test_skew_fit(llama, tmp_path, bundle, edit, message):
    (bundle / "skew_fit.csv").write_text(SKEW)
    assert refusal(llama, tmp_path, bundle / "skew_fit.csv", edit) == message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "the top level must be a mapping, not NoneType"),
        (lambda _: ["- a"], "the top level must be a mapping, not list"),
        (line(1, "hardware: OTHER"), "hardware: 'OTHER', but this is the folder of 'CARD'"),
        (
            line(2, "model: other/model"),
            "model: 'other/model', but this is the folder of 'meta-llama/Llama-3.1-8B'",
        ),
        (line(3, "variant: fp8"), "variant: 'fp8', but this is the folder of 'bf16'"),
        (line(4, "tp_degrees: [2, 4]"), "tp_degrees: 2, 4: does not have 1, but {folder} exists"),
        (line(4, "tp_degrees: [1, 0]"), "tp_degrees[1]: 0: input should be greater than 0"),
        (line(4, "tp_degrees: 1"), "tp_degrees: 1: input should be a valid list"),
        (
            added("step_overhead_us: .nan"),
            "step_overhead_us: nan: input should be less than or equal to 100000",
        ),
        (added("step_overhead_us: -1"), "step_overhead_us: -1: input should be greater than or equal to 0"),
        (
            added("step_overhead_us: 350000"),
            "step_overhead_us: 350000: input should be less than or equal to 100000",
        ),
        (
            added("step_overhead_us: fast"),
            "step_overhead_us: 'fast': input should be a valid number, unable to parse string as a number",
        ),
        (added("a: {"), "line 6: not valid YAML: expected the node content, but found '<stream end>'"),
        (
            added("engine_effective: {hf_overrides: {num_attention_heads: 20, num_key_value_heads: 4}}"),
            "engine_effective.hf_overrides: (num_attention_heads, num_key_value_heads) (20, 4): "
            "meta-llama/Llama-3.1-8B has (32, 8) of tp1, (16, 4) of tp2",
        ),
    ],
)
def test_meta(llama, tmp_path, bundle, edit, message):
    file = bundle.parent / "meta.yaml"
    file.write_text(META)
    assert refusal(llama, tmp_path, file, edit) == message.replace("{folder}", str(bundle))


EXPERTS_HAVE = ("gate_up_proj", "act_fn", "down_proj")
MOE = [
    "tokens,activated_experts,time_us",
    "1,8,60",
    "2,8,61",
    "2,16,107",
    "16,8,70",
    "16,16,118",
    "16,128,790",
]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nothing, "is empty"),
        (only_header, "has no rows"),
        (
            line(1, "tokens,experts,time_us"),
            "line 1: no column activated_experts; columns are tokens,experts,time_us",
        ),
        (
            line(1, "tokens,activated_experts,time_ms"),
            "line 1: no column time_us; times must be in microseconds, not time_ms",
        ),
        (line(2, "1,8"), "line 2: 2 cells instead of 3: ['1', '8']"),
        (line(2, "1,8,nan"), "line 2: time_us is nan: must be finite"),
        (line(2, "1,8,-60"), "line 2: time_us is -60: must be above 0"),
        (line(2, "1,8,0"), "line 2: time_us is 0: must be above 0"),
        (line(2, "0,8,60"), "line 2: tokens is 0: must be a whole number >= 1"),
        (line(2, "1,9,60"), "line 2: 9 experts for 1 tokens, but a token goes to 8"),
        (line(7, "99,129,60"), "line 7: 129 experts for 99 tokens, but the model has 128"),
        (added("2,8,61"), "line 8: repeats tokens=2, activated_experts=8 of line 3"),
        (
            added("32,128,100"),
            "line 8: takes 100 us, but 790 us with tokens 16 instead of 32: cannot be",
        ),
        (
            added("32,8,14000"),
            "line 8: takes 14000 us, but 70 us with tokens 16 instead of 32: cannot be",
        ),
        (
            scaled(1e-3, 2),
            "line 2: 8 experts of 1 tokens take 0.06 us: no device is that fast; are these microseconds?",
        ),
        (
            scaled(1e3, 2),
            "line 2: 8 experts of 1 tokens take 60000 us: no device is that slow; are these microseconds?",
        ),
    ],
)
def test_moe(tmp_path, edit, message):
    model = load_model_config("Qwen/Qwen3-30B-A3B-Instruct-2507")
    folder = write_bundle(tmp_path / "CARD" / model.name / "bf16" / "tp1")
    left = [
        row for row in (folder / "dense.csv").read_text().splitlines() if not row.startswith(EXPERTS_HAVE)
    ]
    (folder / "dense.csv").write_text("\n".join([*left, "qk_norm,1,3"]) + "\n")
    file = folder / "moe.csv"
    file.write_text("\n".join(MOE) + "\n")
    open_latency_model(LatencyQuery("CARD", model, 1, profile_dir=tmp_path))
    assert refusal(model, tmp_path, file, edit) == message
