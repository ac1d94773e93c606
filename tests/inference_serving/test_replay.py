"""Specification of decision replay: our batches against those of a recorded vLLM run.

An item of a recorded iteration is request, tokens computed, tokens computed before, prompt length.
The recordings of a real vLLM are used where they are at hand (REFERENCE_DIR).
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from inference_serving.replay import main, read_recording

RECORDINGS = (
    Path(os.environ.get("REFERENCE_DIR") or Path(__file__).parents[3] / "shared" / "reference") / "vllm_cpu"
)
GOOD_REQS = '{"meta": {"mnbt": 512}}\n'


def add(name: str, prompt: int, t: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"ev": "add", "t": t, "id": name, "p": prompt, **more}


def iteration(t0: float, *items: tuple[str, int, int, int]) -> dict[str, Any]:
    return {"ev": "it", "t0": t0, "items": [list(item) for item in items]}


SMALL = [
    add("a", 700),
    add("b", 4),
    iteration(0.1, ("a", 512, 0, 700)),
    iteration(0.2, ("a", 188, 512, 700), ("b", 4, 0, 4)),
    iteration(0.3, ("a", 1, 700, 700), ("b", 1, 4, 4)),
]


def write(folder: Path, events: list[dict[str, Any]], **meta: Any) -> list[str]:
    """Write a recording; return the two arguments that name it."""
    iters, reqs = folder / "run.iters.jsonl", folder / "run.reqs.jsonl"
    iters.write_text("".join(json.dumps(event) + "\n" for event in events))
    reqs.write_text(json.dumps({"meta": {"mnbt": 512, "policy": "fcfs", **meta}}) + "\n")
    return [str(iters), str(reqs)]


# --- equal and not equal


def test_equal_batches_are_counted(tmp_path, capsys):
    assert main(write(tmp_path, SMALL)) == 0
    assert capsys.readouterr().out == "equal 3 / 3\n"


def test_the_first_different_batch_is_named_by_its_number_and_shown(tmp_path, capsys):
    wrong = [*SMALL[:3], iteration(0.2, ("a", 188, 512, 700), ("b", 3, 0, 4)), SMALL[4]]
    assert main(write(tmp_path, wrong)) == 1
    assert capsys.readouterr().out == (
        "first difference at iteration 1: only ours [('b', 4, 0)], only recorded [('b', 3, 0)]\nequal 2 / 3\n"
    )


@pytest.mark.parametrize(
    "item",
    [("c", 4, 0, 4), ("b", 5, 0, 4), ("b", 4, 1, 4)],
    ids=["other request", "other tokens", "other tokens before"],
)
def test_any_part_of_an_item_can_differ(tmp_path, capsys, item):
    wrong = [*SMALL[:3], iteration(0.2, ("a", 188, 512, 700), item)]
    assert main(write(tmp_path, wrong)) == 1
    assert "first difference at iteration 1: " in capsys.readouterr().out


def test_only_the_first_difference_is_shown(tmp_path, capsys):
    wrong = [*SMALL[:2], *[iteration(t0, ("a", 1, 0, 700)) for t0 in (0.1, 0.2, 0.3)]]
    assert main(write(tmp_path, wrong)) == 1
    out = capsys.readouterr().out
    assert out.startswith("first difference at iteration 0: ")
    assert out.count("\n") == 2
    assert out.endswith("\nequal 0 / 3\n")


def test_a_batch_that_we_would_not_form_at_all_differs(tmp_path, capsys):
    events = [add("a", 4), iteration(0.1, ("a", 4, 0, 4)), iteration(0.2, ("b", 1, 4, 4))]
    assert main(write(tmp_path, events)) == 1
    assert capsys.readouterr().out == (
        "first difference at iteration 1: only ours [], only recorded [('b', 1, 4)]\nequal 1 / 2\n"
    )


def test_the_order_of_items_in_a_batch_does_not_matter(tmp_path):
    turned = [*SMALL[:3], iteration(0.2, ("b", 4, 0, 4), ("a", 188, 512, 700)), SMALL[4]]
    assert main(write(tmp_path, turned)) == 0


# --- what is replayed


def test_a_request_takes_part_in_an_iteration_that_starts_when_it_arrives(tmp_path):
    events = [add("a", 4, t=0.1), iteration(0.1, ("a", 4, 0, 4))]
    assert main(write(tmp_path, events)) == 0


def test_a_request_that_arrives_during_an_iteration_takes_part_in_the_next(tmp_path):
    events = [
        add("a", 4, t=0.0),
        add("b", 6, t=0.101),
        add("c", 2, t=0.15),
        iteration(0.1, ("a", 4, 0, 4)),
        iteration(0.2, ("a", 1, 4, 4), ("b", 6, 0, 6), ("c", 2, 0, 2)),
    ]
    assert main(write(tmp_path, events)) == 0


def test_arrivals_are_taken_by_their_times_and_not_by_their_lines(tmp_path):
    events = [
        add("late", 4, t=0.05),
        add("early", 510, t=0.02),
        iteration(0.1, ("early", 510, 0, 510), ("late", 2, 0, 4)),
    ]
    assert main(write(tmp_path, events)) == 0


def test_iterations_without_items_are_passed_over(tmp_path, capsys):
    assert main(write(tmp_path, [iteration(0.05), *SMALL, iteration(0.4)])) == 0
    assert capsys.readouterr().out == "equal 3 / 3\n"


def test_events_of_other_kinds_are_passed_over(tmp_path):
    assert main(write(tmp_path, [{"ev": "note", "text": "warm"}, *SMALL])) == 0


def test_a_request_has_as_many_output_tokens_as_the_iterations_show(tmp_path):
    iters, reqs = write(tmp_path, SMALL)
    assert read_recording(Path(iters), Path(reqs)).output_tokens == {"a": 2, "b": 2}


def test_a_request_ends_with_its_last_recorded_token(tmp_path):
    events = [
        add("a", 4),
        add("b", 4),
        iteration(0.1, ("a", 4, 0, 4), ("b", 4, 0, 4)),
        iteration(0.2, ("a", 1, 4, 4)),
    ]
    assert main(write(tmp_path, events)) == 0


# --- settings: as recorded, or as the command line says


def test_the_policy_and_priorities_are_those_of_the_recording(tmp_path):
    events = [
        add("a", 10, prio=9),
        add("b", 510, prio=1),
        iteration(0.1, ("b", 510, 0, 510), ("a", 2, 0, 10)),
    ]
    assert main(write(tmp_path, events, policy="priority")) == 0
    assert main(write(tmp_path, events, policy="fcfs")) == 1


def test_the_token_budget_is_that_of_the_recording(tmp_path):
    assert main(write(tmp_path, [add("a", 700), iteration(0.1, ("a", 600, 0, 700))], mnbt=600)) == 0


def test_the_long_prefill_threshold_is_that_of_the_recording(tmp_path):
    assert main(write(tmp_path, [add("a", 700), iteration(0.1, ("a", 100, 0, 700))], lpt=100)) == 0


@pytest.mark.parametrize(
    ("flag", "items"),
    [
        ("--max-num-batched-tokens=300", [("a", 300, 0, 500)]),
        ("--max-num-seqs=1", [("a", 500, 0, 500)]),
        ("--scheduling-policy=priority", [("b", 12, 0, 12), ("a", 500, 0, 500)]),
        ("--kv-blocks=32", [("a", 500, 0, 500)]),
    ],
)
def test_the_command_line_can_change_settings(tmp_path, flag, items):
    events = [add("a", 500, prio=1), add("b", 12, prio=0), iteration(0.1, *items)]
    assert main([*write(tmp_path, events), flag]) == 0


def test_kv_blocks_have_16_tokens_unless_said_otherwise(tmp_path):
    events = [add("a", 16), add("b", 1), iteration(0.1, ("a", 16, 0, 16), ("b", 1, 0, 1))]
    files = write(tmp_path, events)
    assert main([*files, "--kv-blocks=2"]) == 0
    assert main([*files, "--kv-blocks=2", "--block-size=8"]) == 1


def test_at_most_32_sequences_run_unless_said_otherwise(tmp_path):
    names = [f"r{number}" for number in range(33)]
    events = [*[add(name, 2) for name in names], iteration(0.1, *[(name, 2, 0, 2) for name in names[:32]])]
    files = write(tmp_path, events)
    assert main(files) == 0
    assert main([*files, "--max-num-seqs=33"]) == 1


def test_a_recorded_preemption_is_replayed(tmp_path):
    events = [
        add("a", 16),
        add("b", 16),
        iteration(0.1, ("a", 16, 0, 16), ("b", 16, 0, 16)),
        iteration(0.2, ("a", 1, 16, 16)),
        iteration(0.3, ("b", 17, 0, 16)),
        iteration(0.4, ("b", 1, 17, 16)),
    ]
    assert main([*write(tmp_path, events), "--kv-blocks=3"]) == 0


# --- prefill policies

FACTS = {
    **{"model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 4096},
    "max_position_embeddings": 8192,
}
SRPT = {"policy": "srpt", "policy_args": "chunk=512", "hardware": "CPU", "model": FACTS}
PAUSED = [
    add("long", 1500),
    iteration(0.1, ("long", 512, 0, 1500)),
    add("short", 100, t=0.2),
    iteration(0.5, ("short", 100, 0, 100), ("long", 412, 512, 1500)),
    iteration(0.9, ("short", 1, 100, 100), ("long", 511, 924, 1500)),
]


def test_a_prefill_policy_is_replayed_with_its_recorded_options(tmp_path):
    assert main(write(tmp_path, PAUSED, **SRPT)) == 0
    assert main(write(tmp_path, PAUSED, **SRPT | {"policy_args": "chunk=400"})) == 1


def test_a_paused_prompt_goes_on_from_where_it_was(tmp_path):
    events = [
        add("long", 1100),
        iteration(0.1, ("long", 400, 0, 1100)),
        add("short", 100, t=0.2),
        iteration(0.5, ("short", 100, 0, 100)),
        iteration(0.9, ("short", 1, 100, 100), ("long", 400, 400, 1100)),
        iteration(1.3, ("long", 300, 800, 1100)),
    ]
    assert main(write(tmp_path, events, **SRPT | {"policy_args": "chunk=400,density=true"})) == 0


def test_a_prefill_policy_sees_how_long_iterations_took(tmp_path):
    """A short prompt may pass a long one only while what it takes is within the long one's budget."""
    args = {"policy": "bounded-overtake", "policy_args": "chunk=512,tau=0,sigma=0"}
    begin = [add("long", 1500), add("s1", 64, t=0.01)]
    passed = iteration(0.1, ("s1", 64, 0, 64))
    end = add("s2", 64, t=0.2)
    again, no_more = iteration(5.0, ("s2", 64, 0, 64)), iteration(5.0, ("long", 512, 0, 1500))
    assert main(write(tmp_path, [*begin, passed | {"t2": 0.2}, end, again], **SRPT | args)) == 0
    assert main(write(tmp_path, [*begin, passed | {"t2": 4.9}, end, no_more], **SRPT | args)) == 0


def test_a_prefill_policy_predicts_with_the_card_that_was_described_then(tmp_path):
    """Two prompts that are equally long on a card without compute or bandwidth limits go by arrival."""
    events = [add("a", 60), add("b", 50), iteration(0.1, ("a", 60, 0, 60), ("b", 4, 0, 50))]
    free = {"name": "CPU", "source": "none", "memory": {"bandwidth_gbps": 1e15, "size_gb": 1}}
    card = free | {"peak_tflops": {"fp16": 1e15}, "coefficients": None}
    assert main(write(tmp_path, events, **SRPT, mnbt=64)) == 1
    assert main(write(tmp_path, events, **SRPT, mnbt=64, card=card)) == 0


def test_the_command_line_can_change_the_prefill_policy(tmp_path):
    files = write(tmp_path, PAUSED, **SRPT | {"policy": "fcfs"})
    assert main(files) == 1
    assert main([*files, "--scheduling-policy=srpt"]) == 0
    assert main([*files, "--scheduling-policy=srpt", "--policy-args=chunk=400"]) == 1


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"policy": "none-such"}, "meta.policy: 'none-such' is unknown"),
        ({"policy_args": "chunk"}, "meta.policy: 'chunk': write name=value, several separated by commas"),
        ({"hardware": None}, "meta.hardware: this field is required by a prefill policy"),
        ({"model": None}, "meta.model: this field is required by a prefill policy"),
        ({"model": FACTS | {"vocab_size": 0}}, "vocab_size"),
    ],
    ids=["policy", "options", "card", "model", "facts"],
)
def test_a_prefill_policy_that_cannot_be_made_is_refused(tmp_path, capsys, meta, message):
    settings = {name: value for name, value in (SRPT | meta).items() if value is not None}
    assert main(write(tmp_path, PAUSED, **settings)) == 2
    assert message in capsys.readouterr().err


# --- files


def test_gzip_files_are_read_by_their_suffix(tmp_path, capsys):
    packed = []
    for name in write(tmp_path, SMALL):
        file = Path(name + ".gz")
        file.write_bytes(gzip.compress(Path(name).read_bytes()))
        packed.append(str(file))
    assert main(packed) == 0
    assert capsys.readouterr().out == "equal 3 / 3\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("i.jsonl", b'{"ev": "note"}\n{"ev": \n', "line 2: not valid JSON: Expecting value"),
        ("i.jsonl", b'{"ev": "note"}\n\n', "line 2: not valid JSON: Expecting value"),
        ("i.jsonl", b"[1, 2]\n", "line 1: must be a JSON object, not list"),
        ("i.jsonl.gz", b"plain text", "cannot be read: Not a gzipped file (b'pl')"),
        (
            "i.jsonl.gz",
            gzip.compress(b'{"ev": "note"}\n' * 9)[:-9],
            "cannot be read: Compressed file ended before the end-of-stream marker was reached",
        ),
    ],
    ids=["broken line", "blank line", "list", "not gzip", "cut off"],
)
def test_a_bad_iterations_file_is_named_with_what_is_wrong(tmp_path, capsys, name, content, message):
    iters, reqs = tmp_path / name, tmp_path / "reqs.jsonl"
    iters.write_bytes(content)
    reqs.write_text(GOOD_REQS)
    assert main([str(iters), str(reqs)]) == 2
    assert capsys.readouterr().err == f"error: {iters}: {message}\n"


@pytest.mark.parametrize(
    "content", ["", '{"i": 0, "p": 72}\n', '{"meta": 512}\n'], ids=["empty", "no meta", "number"]
)
def test_a_requests_file_must_begin_with_the_settings_of_the_run(tmp_path, capsys, content):
    iters, _ = write(tmp_path, SMALL)
    reqs = tmp_path / "reqs.jsonl"
    reqs.write_text(content)
    assert main([iters, str(reqs)]) == 2
    assert capsys.readouterr().err == f"error: {reqs}: line 1: meta: this field is required\n"


def test_a_missing_file_is_named(tmp_path, capsys):
    iters, reqs = write(tmp_path, SMALL)
    Path(iters).unlink()
    assert main([iters, reqs]) == 2
    assert capsys.readouterr().err == (
        f"error: {iters}: cannot be read: [Errno 2] No such file or directory: '{iters}'\n"
    )


# --- a real vLLM


def recorded(name: str) -> list[str]:
    files = [RECORDINGS / f"{name}.{kind}.jsonl.gz" for kind in ("iters", "reqs")]
    if not all(file.is_file() for file in files):
        pytest.skip("recorded runs are not here (REFERENCE_DIR)")
    return [str(file) for file in files]


@pytest.mark.parametrize(
    ("name", "iterations"), [("fcfs512", 3641), ("fcfs2048", 3490), ("short512", 4497), ("prio512", 3608)]
)
def test_every_batch_of_a_recorded_vllm_run_is_formed_alike(name, iterations, capsys):
    assert main(recorded(name)) == 0
    assert capsys.readouterr().out == f"equal {iterations} / {iterations}\n"


@pytest.mark.parametrize(
    ("name", "flag"), [("prio512", "--scheduling-policy=fcfs"), ("fcfs512", "--max-num-batched-tokens=511")]
)
def test_a_recorded_vllm_run_tells_other_settings_apart(name, flag, capsys):
    assert main([*recorded(name), flag]) == 1
