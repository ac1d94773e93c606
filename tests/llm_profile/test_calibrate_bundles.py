import pytest

from astra_sim.input_error import InputError
from llm_profile.profiles import read_profiles

DENSE = "layer,tokens,time_us\nqkv_proj,1,10.5\nqk_norm,1,2\nlayernorm,1,3\nunknown,1,9\n"
ATTENTION = """\
prefill_chunk,kv_prefill,n_decode,kv_decode,time_us
0,0,2,16,8.5
32,64,0,0,9.25
32,64,2,16,20
"""


SKEW = """\
regime,n,nb,pc,kp,kvs,kv_big,t_mean_us,t_max_us,t_skew_us
pure,8,2,0,0,128,1024,40,60,44
mixed,8,2,512,0,128,1024,40,60,50
pure,4,1,0,0,64,256,20,30,20
"""


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "CARD" / "meta-llama" / "Llama-3.1-8B" / "bf16" / "tp1"
    folder.mkdir(parents=True)
    (folder / "dense.csv").write_text(DENSE)
    (folder / "per_sequence.csv").write_text("layer,sequences,time_us\nlm_head,4,700\n")
    (folder / "attention.csv").write_text(ATTENTION)
    return folder


def test_a_bundle_is_read_in_ns_by_our_layers(bundle, tmp_path):
    (profile,) = read_profiles(tmp_path, "CARD")
    assert profile.key == "meta-llama/Llama-3.1-8B/tp1"
    assert profile.layers == {
        "q_proj": {1: 12500.0},
        "input_layernorm": {1: 3000.0},
        "post_layernorm": {1: 3000.0},
        "lm_head": {4: 700000.0},
    }
    assert (profile.fused_qkv, profile.fused_gate_up) == (True, True)
    assert profile.prefill == {32: {64: 9250.0}}
    assert profile.decode == {2: {34: 8500.0}}  # of two requests with 16 keys each, and their new token
    assert profile.mixed.T.tolist() == [[32, 64, 2, 16, 20000.0]]


def test_uneven_decodes_are_read_as_a_share_of_even_ones(bundle, tmp_path):
    (profile,) = read_profiles(tmp_path, "CARD")
    assert profile.uneven.shape == (5, 0)
    (bundle / "skew.csv").write_text(SKEW)
    (profile,) = read_profiles(tmp_path, "CARD")
    assert profile.uneven.T.tolist() == [[8, 2, 128, 1024, 1.1], [4, 1, 64, 256, 1.0]]


def test_a_missing_file_or_column_is_named(bundle, tmp_path):
    (bundle / "per_sequence.csv").write_text("layer,sequences\n")
    with pytest.raises(InputError) as caught:
        read_profiles(tmp_path, "CARD")
    assert str(caught.value) == f"{bundle / 'per_sequence.csv'}: line 1: no column time_us"
    (bundle / "per_sequence.csv").unlink()
    with pytest.raises(InputError) as caught:
        read_profiles(tmp_path, "CARD")
    assert str(caught.value) == (f"{bundle / 'per_sequence.csv'}: no such file; the tables beside it need it")
