"""Prefill and decode instances that do not fit together: one exact line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import json

import pytest
from broken_clusters import AT, broken, refused, runner
from clusters import TINY_MODEL, cluster_file, instance


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on a cluster file."""
    return runner(tmp_path, capsys)


@pytest.mark.parametrize(("role", "lack"), [("prefill", "decode"), ("decode", "prefill")])
def test_prefill_and_decode_instances_come_together(tmp_path, run, role, lack):
    file = broken(tmp_path, "instance", {"pd_type": role})
    assert run(file) == refused(
        file,
        f"nodes[].instances[].pd_type: there is a {role} instance but no {lack} instance to pair it with; "
        "add one, or set pd_type to null",
    )


def test_an_unknown_role_names_the_known_ones(tmp_path, run):
    file = broken(tmp_path, "instance", {"pd_type": "prefil"})
    assert run(file) == refused(file, f"{AT}.pd_type: 'prefil': input should be 'prefill' or 'decode'")


@pytest.mark.parametrize(
    ("file", "names"), [("other.json", "other, tiny"), ("else/tiny.json", "different ones named 'tiny'")]
)
def test_prefill_and_decode_serve_one_model(tmp_path, run, file, names):
    other = tmp_path / file
    other.parent.mkdir(exist_ok=True)
    other.write_text(json.dumps({**TINY_MODEL, "num_hidden_layers": 1}))
    prefill, decode = instance(tmp_path, pd_type="prefill"), instance(tmp_path, pd_type="decode")
    cluster = cluster_file(tmp_path, [prefill, {**decode, "model_name": str(other)}])
    message = f"prefill and decode instances must serve one model, not {names}"
    assert run(cluster) == refused(cluster, f"nodes[].instances[].model_name: {message}")


@pytest.mark.parametrize(
    ("decode_side", "found"),
    [
        ({"kv_cache_dtype": "fp8"}, "16-bit weights with 8-bit KV and 16-bit weights with 16-bit KV"),
        ({"dtype": "float32"}, "16-bit weights with 16-bit KV and 32-bit weights with 32-bit KV"),
        (
            {"dtype": "fp8", "kv_cache_dtype": "fp16"},
            "8-bit weights with 16-bit KV and 16-bit weights with 16-bit KV",
        ),
    ],
    ids=["KV", "both", "weights"],
)
def test_prefill_and_decode_use_one_precision(tmp_path, run, decode_side, found):
    prefill, decode = instance(tmp_path, pd_type="prefill"), instance(tmp_path, pd_type="decode")
    file = cluster_file(tmp_path, [prefill, {**decode, **decode_side}])
    assert run(file) == refused(
        file,
        f"nodes[].instances[].dtype: prefill and decode instances must use one precision, not {found}; set dtype "
        "and kv_cache_dtype alike",
    )


def test_generation_only_and_a_prefill_instance_contradict_each_other(tmp_path, run):
    pair = [instance(tmp_path, pd_type="prefill"), instance(tmp_path, pd_type="decode")]
    file = cluster_file(tmp_path, pair)
    assert run(file, "--gen") == refused(
        file, "pd_type: --gen turns the prefill phase off, so there can be no prefill instance"
    )
