"""Broken cluster configs on the command line: one exact line on stderr, exit code 2, and nothing written."""

from __future__ import annotations

import json

import pytest
from broken_clusters import ABSENT, AT, broken, refused, runner
from clusters import TINY_MODEL

from inference_serving.policies import policy_names, prefill_policy_names
from llm_profile.hardware import known_hardware
from llm_profile.model_config import known_models
from llm_profile.silicon_systems import SYSTEMS

DTYPES = "float32, fp32, float16, fp16, half, bfloat16, bf16, fp8, fp8_e4m3, fp8_e5m2"
NOT_YET = "is not supported yet; remove the field or set it to its default"
TOO_BIG = "input should be less than or equal to 1000000000000"


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on a cluster file."""
    return runner(tmp_path, capsys)


def test_the_config_that_the_cases_break_is_itself_fine(tmp_path, run):
    outcome = run(broken(tmp_path, "top", {}))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.new_files == [str(tmp_path / name) for name in ("out", "out/run.csv", "run.json")]


def test_a_missing_cluster_file_is_named(tmp_path, run):
    assert run(tmp_path / "none.json") == refused(tmp_path / "none.json", "no such file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: not valid JSON: Expecting value"),
        ('{\n  "num_nodes": ,\n}', "line 2: not valid JSON: Expecting value"),
        ("num_nodes: 1", "line 1: not valid JSON: Expecting value"),
        ("[]", "the top level must be a JSON object, not list"),
        ("3", "the top level must be a JSON object, not int"),
    ],
)
def test_a_file_that_is_not_a_json_object_is_refused(tmp_path, run, text, message):
    file = tmp_path / "cluster.json"
    file.write_text(text)
    assert run(file) == refused(file, message)


@pytest.mark.parametrize(
    ("section", "field", "path"),
    [
        ("top", "num_nodes", "num_nodes"),
        ("top", "link_bw", "link_bw"),
        ("top", "link_latency", "link_latency"),
        ("top", "nodes", "nodes"),
        ("node", "num_instances", "nodes[0].num_instances"),
        ("node", "cpu_mem", "nodes[0].cpu_mem"),
        ("node", "instances", "nodes[0].instances"),
        ("cpu_mem", "mem_bw", "nodes[0].cpu_mem.mem_bw"),
        ("instance", "model_name", f"{AT}.model_name"),
        ("instance", "hardware", f"{AT}.hardware"),
        ("instance", "npu_mem", f"{AT}.npu_mem"),
        ("npu_mem", "mem_size", f"{AT}.npu_mem.mem_size"),
    ],
)
def test_a_missing_field_is_named_with_its_path(tmp_path, run, section, field, path):
    file = broken(tmp_path, section, {field: ABSENT})
    assert run(file) == refused(file, f"{path}: this field is required")


@pytest.mark.parametrize(
    ("section", "field", "path"),
    [
        ("top", "link_bandwidth", "link_bandwidth"),
        ("node", "num_instance", "nodes[0].num_instance"),
        ("cpu_mem", "mem_sise", "nodes[0].cpu_mem.mem_sise"),
        ("instance", "npus", f"{AT}.npus"),
        ("npu_mem", "mem_utilization", f"{AT}.npu_mem.mem_utilization"),
    ],
)
def test_an_unknown_field_is_named_with_its_path(tmp_path, run, section, field, path):
    file = broken(tmp_path, section, {field: 1})
    assert run(file) == refused(file, f"{path}: unknown field; check the spelling")


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("top", {"num_nodes": "1"}, "num_nodes: '1': input should be a valid integer"),
        ("top", {"num_nodes": 1.0}, "num_nodes: 1.0: input should be a valid integer"),
        ("top", {"num_nodes": True}, "num_nodes: True: input should be a valid integer"),
        ("instance", {"npu_num": 1.5}, f"{AT}.npu_num: 1.5: input should be a valid integer"),
        ("instance", {"model_name": None}, f"{AT}.model_name: None: input should be a valid string"),
        ("instance", {"hardware": 100}, f"{AT}.hardware: 100: input should be a valid string"),
        ("instance", {"reserve_full_isl": 1}, f"{AT}.reserve_full_isl: 1: input should be a valid boolean"),
        ("npu_mem", {"mem_size": "40"}, f"{AT}.npu_mem.mem_size: '40': input should be a valid number"),
        ("npu_mem", {"mem_size": True}, f"{AT}.npu_mem.mem_size: True: input should be a valid number"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(tmp_path, run, section, changes, message):
    file = broken(tmp_path, section, changes)
    assert run(file) == refused(file, message)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("npu_mem", {"mem_size": -40}, f"{AT}.npu_mem.mem_size: -40: input should be greater than 0"),
        ("npu_mem", {"mem_size": 0}, f"{AT}.npu_mem.mem_size: 0: input should be greater than 0"),
        (
            "npu_mem",
            {"mem_size": float("nan")},
            f"{AT}.npu_mem.mem_size: nan: input should be a finite number",
        ),
        (
            "npu_mem",
            {"mem_size": float("inf")},
            f"{AT}.npu_mem.mem_size: inf: input should be a finite number",
        ),
        ("npu_mem", {"mem_bw": 0}, f"{AT}.npu_mem.mem_bw: 0: input should be greater than 0"),
        (
            "npu_mem",
            {"mem_latency": -1},
            f"{AT}.npu_mem.mem_latency: -1: input should be greater than or equal to 0",
        ),
        ("npu_mem", {"mem_util": 0}, f"{AT}.npu_mem.mem_util: 0: input should be greater than 0"),
        (
            "npu_mem",
            {"kv_blocks": 0},
            f"{AT}.npu_mem.kv_blocks: 0: input should be greater than or equal to 1",
        ),
        ("npu_mem", {"kv_blocks": 10**13}, f"{AT}.npu_mem.kv_blocks: {10**13}: {TOO_BIG}"),
        ("npu_mem", {"mem_util": 90}, f"{AT}.npu_mem.mem_util: 90: input should be less than or equal to 1"),
        ("cpu_mem", {"mem_size": -1}, "nodes[0].cpu_mem.mem_size: -1: input should be greater than 0"),
        (
            "cpu_mem",
            {"mem_bw": float("nan")},
            "nodes[0].cpu_mem.mem_bw: nan: input should be a finite number",
        ),
        ("instance", {"npu_num": 0}, f"{AT}.npu_num: 0: input should be greater than or equal to 1"),
        ("instance", {"block_size": 0}, f"{AT}.block_size: 0: input should be greater than or equal to 1"),
        ("instance", {"max_batch": -1}, f"{AT}.max_batch: -1: input should be greater than or equal to 0"),
        ("top", {"num_nodes": 0}, "num_nodes: 0: input should be greater than or equal to 1"),
    ],
)
def test_a_number_out_of_its_range_is_named(tmp_path, run, section, changes, message):
    file = broken(tmp_path, section, changes)
    assert run(file) == refused(file, message)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("top", {"num_nodes": 2}, "num_nodes = 2, but 1 node(s) are listed"),
        ("top", {"nodes": []}, "num_nodes = 1, but 0 node(s) are listed"),
        ("node", {"num_instances": 3}, "nodes[0]: num_instances = 3, but 1 instance(s) are listed"),
        ("node", {"instances": []}, "nodes[0]: num_instances = 1, but 0 instance(s) are listed"),
        (
            "instance",
            {"npu_num": 6, "npu_group": 4},
            f"{AT}: 6 NPUs cannot be split into npu_group = 4 pipeline groups; use a multiple of 4 for npu_num, "
            "or set npu_group to one of 1, 2, 3, 6",
        ),
        (
            "instance",
            {"num_npus": 2},
            f"{AT}: npu_num = 1 and num_npus = 2 say different things; give one of them",
        ),
        (
            "instance",
            {"pp_size": 2},
            f"{AT}: npu_group = 1 and pp_size = 2 say different things; give one of them",
        ),
        (
            "instance",
            {"max_batch": 8, "max_num_seqs": 16},
            f"{AT}: max_batch = 8 and max_num_seqs = 16 say different things; give one of them",
        ),
        (
            "instance",
            {"npu_num": 4, "tp_size": 2},
            f"{AT}: tp_size = 2 times 1 pipeline group(s) is 2 NPUs, but the instance has 4",
        ),
    ],
)
def test_counts_that_contradict_each_other_are_both_named(tmp_path, run, section, changes, message):
    file = broken(tmp_path, section, changes)
    assert run(file) == refused(file, message)


@pytest.mark.parametrize("npus", [3, 8])
def test_tensor_parallelism_must_split_the_heads_and_says_what_would(tmp_path, run, npus):
    file = broken(tmp_path, "instance", {"npu_num": npus})
    assert run(file) == refused(
        file,
        f"{AT}.npu_num: tiny: {npus}: cannot split 4 attention heads, 4 K/V heads and intermediate_size 128 "
        "evenly; use one of 1, 2, 4",
    )


@pytest.mark.parametrize("name", ["meta-llama/Llama-9", "/nowhere/config.json", ""])
def test_an_unknown_model_names_the_known_ones(tmp_path, run, name):
    file = broken(tmp_path, "instance", {"model_name": name})
    known = ", ".join(known_models())
    message = f"{name!r} is unknown; known models: {known}; or give a path to a config.json"
    assert run(file) == refused(file, f"{AT}.model_name: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": None}, "vocab_size: this field is required"),
        (
            {"model_type": "gpt2"},
            "model_type: 'gpt2' is not a supported architecture; dense: llama, mistral, qwen2, qwen3; "
            "mixture of experts: mixtral, phimoe, qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3",
        ),
    ],
)
def test_a_broken_model_file_is_named_instead_of_the_cluster_config(tmp_path, run, changes, message):
    model = tmp_path / "broken.json"
    model.write_text(json.dumps({**TINY_MODEL, **changes}))
    file = broken(tmp_path, "instance", {"model_name": str(model)})
    assert run(file) == refused(model, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_name": "mistralai/Mixtral-8x7B-v0.1", "npu_num": 4, "ep_size": 2},
            "ep_size: 2: experts are split (1) or spread over all NPUs of the instance (4); use one of 1, 4",
        ),
        (
            {"model_name": "mistralai/Mixtral-8x7B-v0.1", "npu_num": 16, "ep_size": 16},
            "ep_size: 16: mistralai/Mixtral-8x7B-v0.1 has 8 experts, which 16 NPUs cannot share evenly",
        ),
        ({"ep_size": 2}, "ep_size: 2: tiny has no experts to spread; remove the field"),
    ],
)
def test_experts_that_cannot_be_spread_are_refused(tmp_path, run, changes, message):
    file = broken(tmp_path, "instance", {"npu_mem": {"mem_size": 80, "mem_bw": 3350}, **changes})
    assert run(file) == refused(file, f"{AT}.{message}")


def test_unknown_hardware_names_the_known_cards(tmp_path, run):
    file = broken(tmp_path, "instance", {"hardware": "B2000"})
    known = ", ".join(sorted({*known_hardware(), *SYSTEMS}))
    assert run(file) == refused(file, f"{AT}.hardware: 'B2000' is unknown; known hardware: {known}")


def test_a_model_that_does_not_fit_says_what_it_needs_and_what_there_is(tmp_path, run):
    changes = {"model_name": "meta-llama/Llama-3.1-8B", "npu_mem": {"mem_size": 16, "mem_bw": 3350}}
    file = broken(tmp_path, "instance", changes)
    assert run(file) == refused(
        file,
        f"{AT}.npu_mem.mem_size: 16 GB: meta-llama/Llama-3.1-8B over 1 NPU(s) needs 14.958 GB for weights and "
        "0.002 GB for a KV block on each, but only 14.400 GB are usable (utilization 0.9); use more NPUs, more "
        "memory or fewer bits",
    )


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            "instance",
            {"npu_num": 2, "npu_group": 2},
            f"{AT}.npu_group: pipeline parallelism (2 groups) {NOT_YET}",
        ),
        (
            "instance",
            {"npu_num": 4, "npu_group": None, "pp_size": 4},
            f"{AT}.pp_size: pipeline parallelism (4 groups) {NOT_YET}",
        ),
    ],
)
def test_a_feature_that_is_not_there_yet_is_refused_by_name(tmp_path, run, section, changes, message):
    file = broken(tmp_path, section, changes)
    assert run(file) == refused(file, message)


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("top", {"cxl_mem": None}),
        ("node", {"power": None}),
        ("cpu_mem", {"pim_config": None}),
        ("instance", {"ep_size": 1, "dp_group": None, "placement": None, "enable_prefix_caching": False}),
    ],
)
def test_fields_of_missing_features_may_have_their_defaults(tmp_path, run, section, changes):
    assert run(broken(tmp_path, section, changes)).code == 0


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"default": {"weights": "cxl:0"}}, "cxl:0: there is no cxl_mem"),
        ({"blocks": [{"blocks": "0-2"}]}, "blocks[0].blocks: '0-2': the model has blocks 0 to 1"),
        ({"blocks": [{"blocks": "1-0"}]}, 'blocks[0].blocks: \'1-0\': give block numbers, "0-3" or "8,9,10"'),
        ({"blocks": [{"blocks": "0-1"}, {"blocks": "1"}]}, "blocks[1].blocks: block 1 has a rule already"),
        (
            {"blocks": [{"blocks": "0", "kv_evict_loc": "cpu"}]},
            "kv_evict_loc: npu for some blocks and not for others; KV is kept whole, or computed again",
        ),
    ],
)
def test_a_placement_that_does_not_fit_is_refused(tmp_path, run, placement, message):
    file = broken(tmp_path, "instance", {"placement": placement})
    assert run(file) == refused(file, f"{AT}.placement: {message}")


def test_a_place_that_is_too_small_is_refused_with_numbers(tmp_path, run):
    file = broken(tmp_path, "instance", {"placement": {"default": {"weights": "cpu"}}})
    config = json.loads(file.read_text())
    config["nodes"][0]["cpu_mem"]["mem_size"] = 1e-4
    file.write_text(json.dumps(config))
    assert run(file) == refused(
        file,
        "nodes[0].cpu_mem.mem_size: cpu has 0.000 GB, but the weights placed there take 0.000 GB; make it larger, or "
        "place them elsewhere",
    )


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        (
            {"long_prefill_token_threshold": 8, "enable_chunked_prefill": False},
            [],
            f"{AT}.long_prefill_token_threshold: 8: needs chunked prefill; set it (here, or by "
            "--long-prefill-token-threshold) to 0, or enable chunked prefill",
        ),
        (
            {"enable_chunked_prefill": False},
            ["--long-prefill-token-threshold", "9"],
            f"{AT}.long_prefill_token_threshold: 9: needs chunked prefill; set it (here, or by "
            "--long-prefill-token-threshold) to 0, or enable chunked prefill",
        ),
        ({"dtype": "int4"}, [], f"{AT}.dtype: 'int4' is unknown; use auto or one of {DTYPES}"),
        (
            {"pd_type": "prefill"},
            ["--async-scheduling"],
            f"{AT}.async_scheduling: true: is not supported yet for prefill instances; set it (here, or by "
            "--no-async-scheduling) to false",
        ),
        (
            {"kv_cache_dtype": "fp4"},
            [],
            f"{AT}.kv_cache_dtype: 'fp4' is unknown; use auto or one of {DTYPES}",
        ),
    ],
)
def test_a_wrong_setting_of_one_instance_is_named(tmp_path, run, changes, flags, message):
    file = broken(tmp_path, "instance", changes)
    assert run(file, *flags) == refused(file, message)


def test_an_unknown_policy_of_one_instance_names_the_known_ones(tmp_path, run):
    file = broken(tmp_path, "instance", {"scheduling_policy": "lifo"})
    known = ", ".join([*policy_names(), *prefill_policy_names()])
    said = f"'lifo' is unknown; use one of {known}, or your own by module:Class"
    assert run(file) == refused(file, f"{AT}.scheduling_policy: {said}")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"num_nodes": ' + "9" * 5_000 + "}"], ids=["deep", "long"])
def test_json_beyond_the_parser_is_refused_too(tmp_path, run, text):
    file = tmp_path / "cluster.json"
    file.write_text(text)
    outcome = run(file)
    assert outcome.code == 2
    assert outcome.stderr.startswith(f"error: {file}: not valid JSON: ")


def test_a_cluster_file_that_is_a_folder_is_named_once(tmp_path, run):
    assert run(tmp_path) == refused(tmp_path, "cannot be read: Is a directory")


def test_a_cluster_file_may_start_with_a_byte_order_mark(tmp_path, run):
    file = broken(tmp_path, "top", {})
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert run(file).code == 0


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("top", {"link_bw": 0}, "link_bw: 0: input should be greater than 0"),
        ("top", {"link_bw": "112"}, "link_bw: '112': input should be a valid number"),
        ("top", {"link_latency": -1}, "link_latency: -1: input should be greater than or equal to 0"),
        ("top", {"link_bw": 1e-300}, "link_bw: 1e-300: must be at least 1e-06"),
        ("top", {"link_latency": 1e300}, f"link_latency: 1e+300: {TOO_BIG}"),
        ("npu_mem", {"mem_size": 1e300}, f"{AT}.npu_mem.mem_size: 1e+300: {TOO_BIG}"),
        ("npu_mem", {"mem_bw": 1e-300}, f"{AT}.npu_mem.mem_bw: 1e-300: must be at least 1e-06"),
        ("cpu_mem", {"mem_latency": 1e300}, f"nodes[0].cpu_mem.mem_latency: 1e+300: {TOO_BIG}"),
        ("instance", {"npu_mem": 40}, f"{AT}.npu_mem: 40: must be a JSON object"),
    ],
)
def test_numbers_that_would_overflow_and_alternatives_are_named_too(tmp_path, run, section, changes, message):
    file = broken(tmp_path, section, changes)
    assert run(file) == refused(file, message)
