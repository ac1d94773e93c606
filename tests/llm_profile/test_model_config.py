import json
from pathlib import Path

import pytest

from astra_sim.input_error import InputError
from llm_profile.layers import parameters_per_rank, weight_bytes
from llm_profile.model_config import PROJECT_MODEL_DIR, known_models, load_model_config

SHIPPED = {  # parameters in 1e9, from the model cards
    "meta-llama/Llama-3.1-8B": 8.03,
    "meta-llama/Llama-3.1-70B": 70.55,
    "mistralai/Mixtral-8x7B-v0.1": 46.70,
    "microsoft/Phi-mini-MoE-instruct": 7.65,
    "Qwen/Qwen3-32B": 32.76,
    "Qwen/Qwen3-30B-A3B-Instruct-2507": 30.53,
    "Qwen/Qwen1.5-MoE-A2.7B": 14.316,
    "deepseek-ai/DeepSeek-V2-Lite": 15.706,
    "deepseek-ai/DeepSeek-V3": 671.026,  # without the module for multi-token prediction
}
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}


def write(file: Path, **changes: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**TINY, **changes}))
    return file


@pytest.mark.parametrize(("name", "billions"), SHIPPED.items())
def test_shipped_models_have_the_parameters_of_their_cards(name, billions):
    model = load_model_config(name)
    assert model.name == name
    assert parameters_per_rank(model) / 1e9 == pytest.approx(billions, abs=0.006)


def test_every_shipped_model_is_checked():
    assert set(known_models([PROJECT_MODEL_DIR])) == set(SHIPPED)


def test_defaults_are_those_of_the_hugging_face_classes(tmp_path):
    model = load_model_config(write(tmp_path / "tiny" / "config.json", head_dim=None, torch_dtype="bfloat16"))
    assert (model.name, model.head_dim, model.num_key_value_heads, model.is_moe) == ("tiny", 16, 4, False)
    assert not model.tie_word_embeddings


def test_a_folder_with_a_config_json_is_a_model(tmp_path):
    write(tmp_path / "checkpoint" / "config.json", _name_or_path="org/tiny")
    assert load_model_config(tmp_path / "checkpoint").name == "org/tiny"


def test_a_file_below_model_config_keeps_its_name_so_that_tables_are_found(tmp_path):
    file = write(tmp_path / "model_config" / "org" / "Tiny-1.5.json")
    assert load_model_config(file).name == "org/Tiny-1.5"


def test_the_current_directory_goes_before_the_project(tmp_path, monkeypatch):
    write(tmp_path / "model_config" / "meta-llama" / "Llama-3.1-8B.json", num_hidden_layers=1)
    monkeypatch.chdir(tmp_path)
    assert load_model_config("meta-llama/Llama-3.1-8B").num_hidden_layers == 1
    assert load_model_config("meta-llama/Llama-3.1-70B").num_hidden_layers == 80


def test_tied_embeddings_count_once(tmp_path):
    untied = load_model_config(write(tmp_path / "a.json"))
    tied = load_model_config(write(tmp_path / "b.json", tie_word_embeddings=True))
    assert weight_bytes(untied) - weight_bytes(tied) == 2 * 256 * 64


def test_unknown_model_names_the_known_ones(tmp_path):
    write(tmp_path / "org" / "tiny.json")
    with pytest.raises(InputError) as caught:
        load_model_config("org/other", [tmp_path])
    assert str(caught.value) == (
        "model_name: 'org/other' is unknown; known models: org/tiny; or give a path to a config.json"
    )


@pytest.mark.parametrize("model_type", ["deepseek_vl", "gpt2"])
def test_unsupported_architecture_names_the_supported_ones(tmp_path, model_type):
    file = write(tmp_path / "m.json", model_type=model_type)
    with pytest.raises(InputError) as caught:
        load_model_config(file)
    assert str(caught.value) == (
        f"{file}: model_type: {model_type!r} is not a supported architecture; "
        "dense: llama, mistral, qwen2, qwen3; "
        "mixture of experts: mixtral, phimoe, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size: 0: input should be greater than 0"),
        ({"vocab_size": None}, "vocab_size: this field is required"),
        (
            {"num_key_value_heads": 3},
            "num_attention_heads = 4 must be a multiple of num_key_value_heads = 3",
        ),
        ({"model_type": "mixtral"}, "model_type 'mixtral' does not fit num_experts = 0"),
        (
            {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5},
            "num_experts_per_tok = 5 must be between 1 and num_experts = 4",
        ),
        (
            {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2},
            "moe_intermediate_size is missing: the width of one expert",
        ),
        (
            {
                "model_type": "qwen3_moe",
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 64,
                "mlp_only_layers": [0, 1],
            },
            "none of num_hidden_layers = 2 blocks has experts, by first_k_dense_replace = 0, moe_layer_freq = 1, "
            "decoder_sparse_step = 1 and mlp_only_layers = [0, 1]",
        ),
        (
            {
                "model_type": "deepseek_v2",
                "n_routed_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 64,
                "kv_lora_rank": 512,
            },
            "qk_nope_head_dim is missing: a width of latent attention",
        ),
    ],
)
def test_impossible_values_are_named(tmp_path, changes, message):
    file = write(tmp_path / "m.json", **changes)
    with pytest.raises(InputError) as caught:
        load_model_config(file)
    assert str(caught.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("name", "experts", "per_token", "width"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", 8, 2, 14336),
        ("microsoft/Phi-mini-MoE-instruct", 16, 2, 960),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 128, 8, 768),
    ],
)
def test_experts_are_read_under_each_familys_names(name, experts, per_token, width):
    model = load_model_config(name)
    assert model.is_moe
    assert (model.num_experts, model.num_experts_per_tok, model.moe_intermediate_size) == (
        experts,
        per_token,
        width,
    )
