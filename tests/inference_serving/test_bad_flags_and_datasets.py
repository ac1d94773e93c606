"""Wrong flags, workloads and output places on the command line: one line on stderr, exit code 2, no files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from clusters import cluster_file, instance
from outcomes import Outcome, refused

from inference_serving.cli import main
from inference_serving.gate_function import expert_routing_names
from inference_serving.policies import policy_names, prefill_policy_names
from inference_serving.router import router_names

DTYPES = "float32, fp32, float16, fp16, half, bfloat16, bf16, fp8, fp8_e4m3, fp8_e5m2"
POLICIES = [*policy_names(), *prefill_policy_names()]
GOOD = {"input_toks": 10, "output_toks": 3, "arrival_time_ns": 0}


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on a good cluster (unless given one) with flags that come last and so win."""

    def run_with(
        *flags: object, instances: list[dict[str, Any]] | None = None, dataset: bool = True
    ) -> Outcome:
        cluster = cluster_file(tmp_path, instances or [instance(tmp_path)])
        if not (tmp_path / "workload.jsonl").exists():
            write(tmp_path, GOOD)
        before = set(tmp_path.rglob("*"))
        argv = ["--cluster-config", cluster]
        argv += ["--dataset", tmp_path / "workload.jsonl"] if dataset else []
        argv += ["--output", tmp_path / "out" / "run.csv", "--summary-json", tmp_path / "run.json", *flags]
        code = main([str(arg) for arg in argv])
        captured = capsys.readouterr()
        new = sorted(str(file) for file in set(tmp_path.rglob("*")) - before)
        return Outcome(code, captured.err, captured.out, new)

    return run_with


def write(folder: Path, *lines: str | dict[str, Any]) -> Path:
    file = folder / "workload.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("".join(text + "\n" for text in texts))
    return file


def test_the_run_that_the_cases_break_is_itself_fine(tmp_path, run):
    outcome = run()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.new_files == [str(tmp_path / name) for name in ("out", "out/run.csv", "run.json")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--block-size 0", "--block-size: 0: must be at least 1"),
        ("--block-size -16", "--block-size: -16: must be at least 1"),
        ("--num-req 0", "--num-req: 0: must be at least 1"),
        ("--max-batch -1", "--max-batch: -1: must be at least 0"),
        ("--max-num-batched-tokens -1", "--max-num-batched-tokens: -1: must be at least 0"),
        ("--long-prefill-token-threshold -1", "--long-prefill-token-threshold: -1: must be at least 0"),
        ("--seed -1", "--seed: -1: must be at least 0"),
        (
            "--scheduling-policy lifo",
            f"--scheduling-policy: 'lifo' is unknown; use one of {', '.join(POLICIES)}, or your own by module:Class",
        ),
        ("--policy-args beta=1", "--policy-args: fcfs takes no options; drop beta"),
        (
            "--scheduling-policy srpt --policy-args chunk",
            "--policy-args: 'chunk': write name=value, several separated by commas",
        ),
        ("--scheduling-policy srpt --policy-args chunk=x", "--policy-args: chunk=x: must be a whole number"),
        (
            "--scheduling-policy srpt --policy-args beta=1",
            "--policy-args: beta is unknown; this policy takes chunk, tau, groups, density, error, seed",
        ),
        (
            "--scheduling-policy bounded-overtake --policy-args sigma=1",
            "--policy-args: sigma=1: must be between 0 and 0.999",
        ),
        (
            "--scheduling-policy srpt --no-enable-chunked-prefill",
            "--no-enable-chunked-prefill: srpt works in chunks; drop this flag or use one of fcfs, priority",
        ),
        (
            "--scheduling-policy nowhere:Policy",
            "--scheduling-policy: 'nowhere:Policy': cannot import nowhere: No module named 'nowhere'",
        ),
        (
            "--scheduling-policy json:Policy",
            "--scheduling-policy: 'json:Policy': module json has no Policy",
        ),
        (
            "--scheduling-policy json:JSONDecoder",
            "--scheduling-policy: 'json:JSONDecoder': not a prefill policy; see docs/extending.md",
        ),
        (
            "--scheduling-policy srpt-aging --policy-args aging=-1",
            "--policy-args: aging=-1: must be between 0 and 1e+06",
        ),
        (
            "--scheduling-policy mlfq --policy-args levels=0",
            "--policy-args: levels=0: must be between 1 and 64",
        ),
        (
            "--scheduling-policy lars --policy-args floor=-0.5",
            "--policy-args: floor=-0.5: must be between 0 and 1e+06",
        ),
        (
            "--scheduling-policy long-caps --policy-args max_long_partial_prefills=5",
            "--policy-args: max_long_partial_prefills=5: must be between 1 and 4",
        ),
        ("--num-gpu-blocks-override 0", "--num-gpu-blocks-override: 0: must be at least 1"),
        (
            "--num-gpu-blocks-override 1000000000001",
            "--num-gpu-blocks-override: 1000000000001: must be at most 1000000000000",
        ),
        ("--log-interval 0", "--log-interval: 0: must be between 1e-9 and 1e9 seconds"),
        ("--log-interval -0.5", "--log-interval: -0.5: must be between 1e-9 and 1e9 seconds"),
        ("--log-interval nan", "--log-interval: nan: must be between 1e-9 and 1e9 seconds"),
        ("--log-interval inf", "--log-interval: inf: must be between 1e-9 and 1e9 seconds"),
        (f"--num-req {10**30}", f"--num-req: {10**30}: must be at most {10**12}"),
        (f"--block-size {10**30}", f"--block-size: {10**30}: must be at most {10**12}"),
        (
            "--enable-attn-prediction --latency-source bundle",
            "--enable-attn-prediction: needs --latency-source tables, not bundle: only tables have a predictor",
        ),
        (
            "--enable-sub-batch-interleaving",
            "--enable-sub-batch-interleaving: overlaps NPU work with offloaded attention; give "
            "--enable-attn-offloading, too",
        ),
        ("--npu-memory-utilization 0", "--npu-memory-utilization: 0: must be in (0, 1], such as 0.9"),
        ("--npu-memory-utilization 2", "--npu-memory-utilization: 2: must be in (0, 1], such as 0.9"),
        ("--npu-memory-utilization nan", "--npu-memory-utilization: nan: must be in (0, 1], such as 0.9"),
        ("--fp 7", "--fp: 7: must be 8, 16 or 32"),
        ("--dtype int4", f"--dtype: 'int4' is unknown; use auto or one of {DTYPES}"),
        ("--kv-cache-dtype FP8", f"--kv-cache-dtype: 'FP8' is unknown; use auto or one of {DTYPES}"),
    ],
)
def test_a_flag_out_of_its_range_is_named_with_its_value(run, flags, message):
    assert run(*flags.split()) == refused(message)


@pytest.mark.parametrize(
    "text", ["x", "", "1-", "-1", "0,,1", "0-2,", "1-2-3", "1.5", "5-2", "²", "9" * 5000]
)
def test_a_wrong_list_of_iterations_is_named_with_its_value(tmp_path, run, text):
    assert (
        run(f"--dump-iterations={text}")
        == run("--dump-traces", tmp_path / "traces", f"--dump-iterations={text}")
        == refused(f"--dump-iterations: {text!r}: give numbers and ranges, such as 0-9,100")
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--enable-prefix-sharing",
            "--enable-prefix-sharing: there is no second tier to share; give --prefix-storage CPU or CXL",
        ),
        (
            "--prefix-chunk-tokens 128",
            "--prefix-chunk-tokens: 128: there is no second tier; give --prefix-storage CPU or CXL",
        ),
        (
            "--prefix-storage CPU",
            "--prefix-storage: is a second tier of the prefix cache; give --enable-prefix-caching, too",
        ),
        ("--prefix-chunk-tokens 0", "--prefix-chunk-tokens: 0: must be at least 1"),
        (
            "--prefix-storage CPU --dump-traces dumps --et-dialect astra-sim",
            "--prefix-storage: CPU: stock ASTRA-Sim cannot play its loads and stores; use None",
        ),
    ],
)
def test_a_second_tier_that_cannot_be_is_refused(run, flags, message):
    assert run(*flags.split()) == refused(message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--expert-routing-policy rand",
            f"--expert-routing-policy: 'rand' is unknown; use one of {', '.join(expert_routing_names())}, "
            "or your own by module:Class",
        ),
        (
            "--expert-routing-policy json:JSONDecoder",
            "--expert-routing-policy: 'json:JSONDecoder': not an expert routing; see docs/moe.md",
        ),
        (
            "--expert-routing-policy CUSTOM",
            "--expert-routing-args: CUSTOM needs class=module:Class",
        ),
        (
            "--expert-routing-args skew=1",
            "--expert-routing-args: FAST takes no options; drop skew",
        ),
        (
            "--expert-routing-policy POWERLAW --expert-routing-args skew=-1",
            "--expert-routing-args: skew=-1: must be between 0 and 10",
        ),
        (
            "--request-routing-policy rr",
            f"--request-routing-policy: 'rr' is unknown; use one of {', '.join(router_names())}, "
            "or your own by module:Class",
        ),
        (
            "--request-routing-policy nowhere:Router",
            "--request-routing-policy: 'nowhere:Router': cannot import nowhere: No module named 'nowhere'",
        ),
        (
            "--request-routing-policy json:JSONDecoder",
            "--request-routing-policy: 'json:JSONDecoder': not a router; see docs/extending.md",
        ),
        ("--request-routing-policy CUSTOM", "--router-args: CUSTOM needs class=module:Class"),
        (
            "--request-routing-policy CUSTOM --router-args class=json:Router",
            "--request-routing-policy: 'json:Router': module json has no Router",
        ),
        ("--router-args guard=1", "--router-args: RR takes no options; drop guard"),
        ("--router-args guard", "--router-args: 'guard': write name=value, several separated by commas"),
        (
            "--request-routing-policy SITA --router-args guard=1",
            "--router-args: guard is unknown; this policy takes cutoff, share",
        ),
        (
            "--request-routing-policy SITA --router-args share=2",
            "--router-args: share=2: must be between 0 and 1",
        ),
        (
            "--request-routing-policy MSC --router-args guard=x",
            "--router-args: guard=x: must be a whole number",
        ),
    ],
)
def test_a_wrong_router_or_router_option_is_refused_with_what_would_be_right(run, flags, message):
    assert run(*flags.split()) == refused(message)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--network-backend htsim", "argument --network-backend: invalid choice: 'htsim'"),
        ("--latency-source oracle", "argument --latency-source: invalid choice: 'oracle'"),
        ("--log-level ERROR", "argument --log-level: invalid choice: 'ERROR'"),
        ("--block-size big", "argument --block-size: invalid int value: 'big'"),
        ("--num-req 1e3", "argument --num-req: invalid int value: '1e3'"),
        ("--log-interval", "argument --log-interval: expected one argument"),
        ("--enable-magic", "unrecognized arguments: --enable-magic"),
    ],
)
def test_what_no_flag_can_take_ends_with_the_usage_and_the_complaint(run, capsys, flags, complaint):
    with pytest.raises(SystemExit) as caught:
        run(*flags.split())
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2
    assert f"error: {complaint}" in last_line


def test_the_dataset_is_required(run):
    assert run(dataset=False) == refused("--dataset: give the workload to simulate, a JSONL file")


def test_a_missing_profile_folder_is_named(tmp_path, run):
    folder = tmp_path / "nowhere"
    assert run("--profile-dir", folder) == refused(f"{folder}: no such folder of tables")


def test_a_missing_dataset_is_named(tmp_path, run):
    file = tmp_path / "none.jsonl"
    assert run("--dataset", file) == refused(f"{file}: no such file")


def test_a_dataset_that_is_a_folder_is_named(tmp_path, run):
    assert run("--dataset", tmp_path) == refused(f"{tmp_path}: cannot be read: Is a directory")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no requests; write one JSON object a line"),
        (
            [GOOD, "{oops}"],
            "line 2: not valid JSON: Expecting property name enclosed in double quotes at column 2; write one "
            "object a line",
        ),
        ([GOOD, "[10, 3, 0]"], 'line 2: a list: must be a JSON object such as {"input_toks": 128, ...}'),
        ([{"input_toks": 10, "output_toks": 3}], "line 1: arrival_time_ns: this field is required"),
        ([{**GOOD, "arrival_time_ns": -1}], "line 1: arrival_time_ns: -1: must be at least 0"),
        ([{**GOOD, "input_toks": 0}], "line 1: input_toks: 0: must be at least 1"),
        ([{**GOOD, "output_toks": 0}], "line 1: output_toks: 0: must be at least 1"),
        ([{**GOOD, "output_toks": 2.5}], "line 1: output_toks: 2.5: must be an integer"),
        (
            [{**GOOD, "sub_requests": []}],
            "line 1: sub_requests: has no turns; give at least one",
        ),
        (
            [GOOD, {**GOOD, "input_toks": 4096}],
            "request 1: input_toks: 4096: the prompt must be shorter than the model's context of 4096 tokens",
        ),
    ],
)
def test_a_wrong_workload_is_named_with_its_line_or_request(tmp_path, run, lines, message):
    file = write(tmp_path, *lines)
    assert run() == refused(f"{file}: {message}")


def test_prefix_caching_without_token_ids_is_refused(tmp_path, run):
    file = write(tmp_path, GOOD)
    assert run("--enable-prefix-caching") == refused(
        f"{file}: input_tok_ids: no request has token ids, so prefix caching can find nothing; "
        "add them, or drop --enable-prefix-caching"
    )


def test_unsorted_arrivals_name_both_lines_and_the_way_to_sort(tmp_path, run):
    file = write(tmp_path, {**GOOD, "arrival_time_ns": 5}, {**GOOD, "arrival_time_ns": 4})
    assert run() == refused(
        f"{file}: line 2: arrival_time_ns: 4: is earlier than 5 on line 1; sort the requests by arrival time: "
        f"jq -c -s 'sort_by(.arrival_time_ns)[]' {file} > sorted.jsonl"
    )


@pytest.mark.parametrize(
    ("sides", "tokens", "needed", "where"),
    [
        ([(None, 1000)], (990, 20), 1009, 0),
        ([(None, 5000), (None, 1000)], (990, 20), 1009, 1),
        ([("prefill", 1000), ("decode", 5000)], (1010, 2), 1010, 0),
        ([("prefill", 1000), ("decode", 1000)], (990, 20), 1009, 1),
    ],
    ids=["one instance", "the smaller of two", "prompt at the prefill side", "all of it at the decode side"],
)
def test_a_request_that_never_fits_the_kv_is_refused_before_the_run(
    tmp_path, run, sides, tokens, needed, where
):
    prompt, output = tokens
    file = write(tmp_path, GOOD, {**GOOD, "input_toks": prompt, "output_toks": output})
    instances = [instance(tmp_path, pd_type=role, kv_tokens=kv_tokens) for role, kv_tokens in sides]
    generated = f" and {needed - prompt} generated ones" if needed > prompt else ""
    assert run(instances=instances) == refused(
        f"{file}: request 1: input_toks: {prompt} prompt tokens{generated} need KV of {needed} tokens, but "
        f"instance {where} holds 992; use more NPU memory or shorter requests"
    )


def test_a_prompt_that_needs_chunks_is_refused_without_chunked_prefill(tmp_path, run):
    file = write(tmp_path, {**GOOD, "input_toks": 511})
    outcome = run("--no-enable-chunked-prefill", "--max-num-batched-tokens", 512)
    assert outcome == refused(
        f"{file}: request 0: input_toks: 511 prompt tokens and 2 generated ones must run in one iteration "
        "without chunked prefill, but instance 0 takes 512; raise max_num_batched_tokens"
    )


@pytest.mark.parametrize("flag", ["--output", "--summary-json"])
def test_an_output_that_is_a_folder_is_refused(tmp_path, run, flag):
    folder = tmp_path / "results"
    folder.mkdir()
    assert run(flag, folder) == refused(f"{folder}: {flag}: is a folder; give a file name")


@pytest.mark.parametrize("flag", ["--output", "--summary-json"])
def test_an_output_below_a_file_is_refused(tmp_path, run, flag):
    file = write(tmp_path, GOOD)
    assert run(flag, file / "sub" / "run.csv") == refused(
        f"{file / 'sub' / 'run.csv'}: {flag}: cannot be written: {file} is not a folder"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_in_a_folder_without_permission_is_refused(tmp_path, run):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert run("--output", folder / "run.csv") == refused(
        f"{folder / 'run.csv'}: --output: cannot be written: no permission in {folder}"
    )


def test_outputs_are_checked_before_anything_is_read(tmp_path, run):
    outcome = run("--output", tmp_path, "--cluster-config", tmp_path / "none.json")
    assert outcome == refused(f"{tmp_path}: --output: is a folder; give a file name")


def test_a_refused_run_leaves_the_results_of_the_last_one_alone(tmp_path, run):
    old = tmp_path / "old.csv"
    old.write_text("old results")
    assert run("--output", old, "--dataset", tmp_path / "none.jsonl").code == 2
    assert old.read_text() == "old results"


@pytest.mark.parametrize(
    ("flags", "wrong", "other"),
    [
        ("--summary-json run.csv --output run.csv", "--summary-json", "--output"),
        ("--output sub/../x.csv --summary-json x.csv", "--summary-json", "--output"),
        ("--output workload.jsonl", "--output", "--dataset"),
        ("--summary-json cluster.json", "--summary-json", "--cluster-config"),
    ],
)
def test_an_output_must_not_be_an_input_or_another_output(tmp_path, run, flags, wrong, other):
    parts = [part if part.startswith("--") else str(tmp_path / part) for part in flags.split()]
    file = parts[parts.index(wrong) + 1]
    assert run(*parts) == refused(f"{file}: {wrong}: is the file of {other} too; give another name")


@pytest.mark.parametrize("below", ["", "sub"])
def test_traces_below_a_file_are_refused_before_the_run(tmp_path, run, below):
    folder = write(tmp_path, GOOD) / below
    assert run("--dump-traces", folder) == refused(
        f"{folder}: --dump-traces: cannot be written: {tmp_path / 'workload.jsonl'} is not a folder"
    )


def test_an_output_whose_name_is_too_long_is_refused(tmp_path, run):
    file = tmp_path / ("x" * 300)
    assert run("--output", file) == refused(f"{file}: --output: cannot be written: File name too long")


def test_silicon_without_its_package_says_how_to_install_it(tmp_path, run):
    assert run("--latency-source", "silicon") == refused(
        f"{tmp_path / 'cluster.json'}: nodes[0].instances[0].hardware: no latencies of tiny on H100; silicon: "
        "latency source: aiconfigurator-core is not installed; install it with ./compile.sh --with silicon"
    )


def test_tables_that_are_not_there_are_named(tmp_path, run):
    (tmp_path / "tables").mkdir()
    outcome = run("--profile-dir", tmp_path / "tables", "--latency-source", "tables")
    assert outcome == refused(
        f"{tmp_path / 'cluster.json'}: nodes[0].instances[0].hardware: no latencies of tiny on H100; tables: "
        f"hardware: no tables H100/tiny/tp1/layers.csv; found: no tables (in {tmp_path / 'tables'})"
    )


def test_a_disk_that_fills_up_is_an_error_without_traceback(run, monkeypatch):
    def full(file: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr("inference_serving.cli.write_whole", full)
    outcome = run()
    assert (outcome.code, outcome.new_files) == (2, [])
    assert outcome.stderr.endswith("run.csv: No space left on device\n")


@pytest.mark.parametrize("flag", ["--step-overhead", "--layer-group-overhead"])
@pytest.mark.parametrize("value", ["-1", "fast", "1.5", "", "9999999999999", "٣"])
def test_an_overhead_is_auto_off_or_nanoseconds(run, flag, value):
    assert run(f"{flag}={value}") == refused(
        f"{flag}: {value!r}: give auto, off or whole nanoseconds from 0 to 1000000000000"
    )
