import pytest
from synthetic_bundles import SKEW_HEADER

from astra_sim.input_error import InputError
from llm_profile.latency import LatencyQuery, open_latency_model


@pytest.fixture
def error(llama, bundle):
    """Message of opening the bundle after ``edit`` has changed the text of one of its files."""

    def message(name, edit, **options) -> str:
        file = bundle / name
        file.write_text(edit(file.read_text() if file.is_file() else ""))
        query = LatencyQuery("CARD", llama, 1, profile_dir=bundle.parents[4], **options)
        with pytest.raises(InputError) as caught:
            open_latency_model(query)  # broken is broken: auto must not take another source
        assert caught.value.file == str(file)
        return str(caught.value).removeprefix(f"{file}: ")

    return message


@pytest.mark.parametrize("name", ["dense.csv", "per_sequence.csv", "attention.csv"])
def test_every_file_must_have_rows_in_microseconds(error, name):
    header = {"dense.csv": "layer,tokens", "per_sequence.csv": "layer,sequences"}
    keys = header.get(name, "prefill_chunk,kv_prefill,n_decode,kv_decode")
    assert error(name, lambda _: "") == "is empty"
    assert error(name, lambda _: f"{keys},time_us\n") == "has no rows"
    wrong = "line 1: no column time_us; times must be in microseconds, not time_ms"
    assert error(name, lambda _: f"{keys},time_ms\n") == wrong
    less = keys.partition(",")[2]
    first = keys.partition(",")[0]
    message = f"line 1: no column {first}; columns are {less},time_us"
    assert error(name, lambda _: f"{less},time_us\n") == message


@pytest.mark.parametrize("name", ["dense.csv", "per_sequence.csv", "attention.csv"])
def test_a_missing_file_is_named(llama, bundle, name):
    (bundle / name).unlink()
    with pytest.raises(InputError) as caught:
        open_latency_model(LatencyQuery("CARD", llama, 1, profile_dir=bundle.parents[4]))
    assert str(caught.value) == f"{bundle / name}: no such file; a bundle needs it"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("o_proj,8,nan", "time_us is nan: must be finite"),
        ("o_proj,8,", "time_us is '': not a number"),
        ("o_proj,8,-3", "time_us is -3: must be above 0"),
        ("o_proj,0,3", "tokens is 0: must be a whole number >= 1"),
        ("o_proj,1.5,3", "tokens is 1.5: must be a whole number >= 1"),
        ("o_proj,8", "2 cells instead of 3: ['o_proj', '8']"),
        ("o_proj,16,13", "repeats tokens=16 of line 20"),
        ("o_proj,65,1", "o_proj of 65 tokens takes 1 us, but 37 us with fewer: cannot be"),
        ("o_prj,8,3", "unknown layer 'o_prj'; known: "),
        ("qk_norm,8,3", "qk_norm is not a layer of this model, or its parts are here too"),
    ],
)
def test_a_broken_row_is_named(error, row, message):
    assert error("dense.csv", lambda text: text + row + "\n").startswith(f"line 38: {message}")


def test_a_missing_layer_is_named(error):
    def without(layer):
        return lambda text: "".join(
            line for line in text.splitlines(keepends=True) if not line.startswith(layer)
        )

    assert error("dense.csv", without("qkv_proj")) == "layer: no rows for qkv_proj"
    assert error("dense.csv", without("act_fn")) == "layer: no rows for act_fn, qkv_proj"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("16,0,1,16,7", "repeats prefill_chunk=16, kv_prefill=0, n_decode=1, kv_decode=16 of line 20"),
        ("0,9,1,16,7", "kv_prefill is 9 with prefill_chunk 0: cannot be"),
        ("16,0,0,16,7", "kv_decode is 16 with n_decode 0: cannot be"),
        ("16,0,4,0,7", "kv_decode is 0 with n_decode 4: cannot be"),
        ("0,0,0,0,7", "neither a prefill nor a decode"),
        ("16,0,-1,16,7", "n_decode is -1: must be a whole number >= 0"),
        ("0,0,8,8192,7", "takes 7 us, but 144.072 us with kv_decode 4096 instead of 8192: cannot be"),
    ],
)
def test_a_broken_attention_row_is_named(error, row, message):
    assert error("attention.csv", lambda text: text + row + "\n") == f"line 101: {message}"


def test_attention_needs_prefill_and_decode(error):
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
    assert error("attention.csv", lambda _: header + "16,0,0,0,7\n") == (
        "no rows of n_decode > 0 with prefill_chunk 0"
    )
    assert error("attention.csv", lambda _: header + "0,0,1,16,7\n") == (
        "no rows of prefill_chunk > 0 with n_decode 0"
    )


def test_milliseconds_under_the_name_of_microseconds_are_found(error):
    """1.05 GB of weights take 1051 us at 1000 GB/s; 0.7 us are milliseconds."""
    rows = "layer,sequences,time_us\nlm_head,1,0.7\nlm_head,8,0.71\n"
    message = error("per_sequence.csv", lambda _: rows, mem_bw_gbps=1000)
    assert message == (
        "time_us: lm_head of one sequence takes 0.7 us, but reading its weights 1050.67 us: "
        "are these microseconds?"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,8,sr<=5%,kvB<=1k,kp=0,0.1,1", "n_label is '8': not a label such as n<=8"),
        ("0,n<=8,sr<=5%,kvB<=1k,kp=0,inf,1", "alpha is inf: must be finite"),
        ("0,n<=2,sr<=5%,kvB<=1k,kp=0,0.2,1", "repeats the bucket of line 2"),
    ],
)
def test_a_broken_skew_row_is_named(error, row, message):
    good = "0,n<=2,sr<=5%,kvB<=1k,kp=0,0.1,1"
    assert error("skew_fit.csv", lambda _: f"{SKEW_HEADER}\n{good}\n{row}\n") == f"line 3: {message}"
