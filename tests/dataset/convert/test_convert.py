"""Specification of ``python -m dataset.convert``: each format's lines, the choice of requests, and every error."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from dataset.convert import FORMATS
from dataset.convert.__main__ import main
from inference_serving.dataset import read_dataset
from inference_serving.request_spec import RequestSpec

MS = 1_000_000
S = 1_000_000_000

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:17:03.9799601,4808,10\r
2023-11-16 18:17:04.0319600,3180,8\r
2023-11-16 18:17:14.0319600,110,27"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45.5,ChatGPT,1087,0,1087,API log
118,GPT-4,417,276,693,Conversation log
"""
MOONCAKE = """\
{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 27, "input_length": 600, "output_length": 6, "hash_ids": [0, 3]}
{"timestamp": 3000, "input_length": 512, "output_length": 7, "hash_ids": [0]}
"""
VLLM = json.dumps(
    {
        "num_prompts": 3,
        "input_lens": [10, 20, 30],
        "output_lens": [3, 0, 1],
        "ttfts": [0.25, 0.0, 0.5],
        "itls": [[0.125, 0.0625], [], []],
        "start_times": [7000.5, 7000.0, 7000.25],
        "errors": ["", "timeout", ""],
    }
)
BENCH = {
    "request_id": "bench-0",
    "input_toks": 2358,
    "output_toks": 531,
    "arrival_time": 100.5,
    "queued_ts": 7.0,
    "first_token_ts": 7.5,
    "last_token_ts": 8.5,
}
SAMPLES = {"azure": AZURE, "burstgpt": BURSTGPT, "mooncake": MOONCAKE, "vllm": VLLM}


@pytest.fixture
def trace(tmp_path):
    def write(text: str, name: str = "trace") -> Path:
        file: Path = tmp_path / name
        file.write_text(text, newline="")
        return file

    return write


@pytest.fixture
def convert(tmp_path, trace, capsys):
    def run(name: str, options: str = "", text: str | None = None) -> list[RequestSpec]:
        file, out = trace(SAMPLES[name] if text is None else text), tmp_path / "out.jsonl"
        code = main([name, str(file), "-o", str(out), *shlex.split(options)])
        assert code == 0, capsys.readouterr().err
        return read_dataset(out, keep_token_ids=True)

    return run


@pytest.fixture
def error_of(tmp_path, trace, capsys):
    def run(name: str, options: str = "", text: str | None = None) -> str:
        file, out = trace(SAMPLES[name] if text is None else text), tmp_path / "out.jsonl"
        assert main([name, str(file), "-o", str(out), *shlex.split(options)]) == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["trace"]
        error: str = capsys.readouterr().err
        assert error.count("\n") == 1
        return error.rstrip("\n").removeprefix("error: ").replace(f"{file}: ", "")

    return run


def facts(requests: list[RequestSpec]) -> list[tuple[int, int, int]]:
    return [(one.arrival_ns, one.input_tokens, one.output_tokens) for one in requests]


# Formats


def test_azure_dates_become_ns_since_the_first_without_losing_a_digit(convert):
    assert facts(convert("azure")) == [
        (0, 4808, 10),
        (51_999_900, 3180, 8),
        (10_051_999_900, 110, 27),
    ]


@pytest.mark.parametrize("suffix", ["", "Z", "+00:00"])
def test_azure_dates_may_have_a_t_a_zone_and_no_fraction(convert, suffix):
    text = f"ContextTokens,TIMESTAMP,GeneratedTokens\n1,2024-05-10T00:00:00{suffix},2\n"
    assert facts(convert("azure", text=text)) == [(0, 1, 2)]


def test_burstgpt_seconds_become_ns_and_failed_requests_are_counted(convert, capsys):
    assert facts(convert("burstgpt")) == [(0, 472, 18), (113 * S, 417, 276)]
    assert "left out: 1 without prompt or answer tokens\n" in capsys.readouterr().out


def test_mooncake_milliseconds_become_ns(convert):
    assert facts(convert("mooncake")) == [(0, 1100, 5), (27 * MS, 600, 6), (3 * S, 512, 7)]


def test_a_vllm_result_is_sorted_by_when_requests_were_sent_and_failures_are_counted(convert, capsys):
    assert facts(convert("vllm")) == [(0, 30, 1), (250 * MS, 10, 3)]
    assert "left out: 1 failed in the real run\n" in capsys.readouterr().out


def test_a_vllm_result_without_start_times_takes_new_arrivals(convert):
    result = {**json.loads(VLLM), "start_times": None}
    requests = convert("vllm", "--arrivals constant:2", json.dumps(result))
    assert facts(requests) == [(0, 10, 3), (500 * MS, 30, 1)]


def test_long_prompts_can_be_injected_and_the_classes_are_written(convert):
    requests = convert("mooncake", "--inject-long 1:9000 --long-output-toks 4")
    assert facts(requests) == [(0, 9000, 4), (27 * MS, 9000, 4), (3 * S, 9000, 4)]
    assert {one.request_class for one in requests} == {"long"}
    added = convert("mooncake", "--inject-long 1:9000 --inject-mode add")
    assert [one.input_tokens for one in added if one.request_class == "short"] == [1100, 600, 512]
    assert [one.input_tokens for one in added if one.request_class == "long"] == [9000] * 3


def test_one_seed_makes_the_same_bytes(tmp_path, convert):
    texts = []
    for seed in (1, 1, 2):
        convert("mooncake", f"--arrivals poisson:5 --inject-long 0.5:9000 --token-ids --seed {seed}")
        texts.append((tmp_path / "out.jsonl").read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_token_ids_follow_the_hashes(convert):
    first, second, third = (one.input_token_ids or () for one in convert("mooncake", "--token-ids"))
    assert first[:512] == second[:512] == third
    assert first[512:514] == (1, 0)
    assert second[512:514] == (3, 0)
    assert [len(one) for one in (first, second, third)] == [1100, 600, 512]


def test_a_folder_of_the_published_bench_stands_for_its_requests(tmp_path):
    lines = [BENCH, {**BENCH, "request_id": "bench-1", "arrival_time": 101.0, "input_toks": 7}]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["vllm", str(tmp_path), "-o", str(tmp_path / "out.jsonl")]) == 0
    assert facts(read_dataset(tmp_path / "out.jsonl")) == [(0, 2358, 531), (500 * MS, 7, 531)]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_without_further_flags_a_line_has_the_published_fields_only(tmp_path, convert, name):
    convert(name)
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        assert list(json.loads(line)) == ["input_toks", "output_toks", "arrival_time_ns"]


def test_unsorted_requests_are_sorted_and_those_of_one_time_keep_their_order(convert):
    text = "Timestamp,Request tokens,Response tokens\n9,1,1\n5,2,1\n9,3,1\n5,4,1\n"
    assert [one.input_tokens for one in convert("burstgpt", text=text)] == [2, 4, 1, 3]


def test_what_was_written_is_summed_up(convert, tmp_path, capsys):
    convert("azure", "--long-from 4000")
    assert capsys.readouterr().out == (
        f"{tmp_path / 'out.jsonl'}: 3 requests in 10.1 s, 8098 prompt and 45 answer tokens, 1 long\n"
    )


# Which requests, and when


@pytest.mark.parametrize(
    ("options", "expected", "left_out"),
    [
        ("--start 0.02", [(7 * MS, 600, 6), (2980 * MS, 512, 7)], "1 outside --start and --duration"),
        ("--duration 3", [(0, 1100, 5), (27 * MS, 600, 6)], "1 outside --start and --duration"),
        ("--start 0.027 --duration 2.973", [(0, 600, 6)], "2 outside --start and --duration"),
        ("--num-req 1", [(0, 1100, 5)], "2 after the first --num-req"),
        (
            "--max-input-toks 600",
            [(27 * MS, 600, 6), (3 * S, 512, 7)],
            "1 with prompts of more than 600 tokens",
        ),
        ("--max-output-toks 5", [(0, 1100, 5)], "2 with answers of more than 5 tokens"),
        (
            "--max-input-toks 600 --num-req 1",
            [(27 * MS, 600, 6)],
            "1 with prompts of more than 600 tokens, 1 after the first --num-req",
        ),
    ],
)
def test_requests_can_be_chosen_and_those_left_out_are_counted(convert, capsys, options, expected, left_out):
    assert facts(convert("mooncake", options)) == expected
    assert f"left out: {left_out}\n" in capsys.readouterr().out


def test_the_rate_can_be_scaled(convert):
    assert [one.arrival_ns for one in convert("mooncake", "--rate-scale 2")] == [0, 13_500_000, 1_500 * MS]
    assert [one.arrival_ns for one in convert("mooncake", "--rate-scale 0.5")] == [0, 54 * MS, 6 * S]


def test_arrivals_can_be_drawn_anew_while_lengths_stay(convert):
    requests = convert("mooncake", "--arrivals bursts:2:0.5")
    assert facts(requests) == [(0, 1100, 5), (0, 600, 6), (500 * MS, 512, 7)]


# Errors


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("azure", "", "line 1: has no column named TIMESTAMP; is it in this format?"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no requests"),
        ("azure", AZURE + "\n2023-11-16 18:17:15,5", "line 5: has 2 columns, but the header has 3"),
        ("azure", AZURE + "\n\n2023-11-16 18:17:15,x,1", "line 6: ContextTokens: 'x': must be a number"),
        (
            "azure",
            AZURE + "\n2023-11-16 18:17:15,5,-1",
            "line 5: GeneratedTokens: -1: must be an integer of at least 0",
        ),
        (
            "azure",
            AZURE + "\n2023-11-16 18:17:15,5e9,1",
            "line 5: ContextTokens: 5000000000: must be at most 2147483648",
        ),
        (
            "azure",
            AZURE + "\n2023-13-16 18:17:15,5,1",
            "line 5: TIMESTAMP: '2023-13-16 18:17:15': must be a time such as 2023-11-16 18:17:03.9799600",
        ),
        (
            "azure",
            AZURE + "\n17,5,1",
            "line 5: TIMESTAMP: '17': must be a time such as 2023-11-16 18:17:03.9799600",
        ),
        ("burstgpt", AZURE, "line 1: has no column named Timestamp; is it in this format?"),
        (
            "burstgpt",
            BURSTGPT + "-1,GPT-4,1,1,2,API log\n",
            "line 5: Timestamp: -1: must be between 0 and 4.61e+09",
        ),
        ("burstgpt", BURSTGPT + "nan,GPT-4,1,1,2,API log\n", "line 5: Timestamp: nan: must be a number"),
        ("mooncake", MOONCAKE + "[]\n", "line 4: must be a JSON object"),
        ("mooncake", '{"input_length": 5}\n', "line 1: hash_ids: this field is required"),
        ("mooncake", "{}\n", "line 1: input_length: this field is required"),
        (
            "mooncake",
            MOONCAKE.replace("[0, 3]", "[0, 3, 4]"),
            "line 2: hash_ids: has 3 ids, but 600 tokens are 2 blocks of 512",
        ),
        (
            "mooncake",
            MOONCAKE.replace("[0, 3]", "[0, -3]"),
            "line 2: hash_ids[1]: -3: must be an integer of at least 0",
        ),
        (
            "mooncake",
            MOONCAKE.replace('"timestamp": 27', '"timestamp": "27"'),
            "line 2: timestamp: '27': must be a number",
        ),
        (
            "vllm",
            json.dumps({**json.loads(VLLM), "start_times": []}),
            "--arrivals: the trace has no arrival times; give a process such as poisson:5",
        ),
        ("vllm", "time_s,throughput\n1,5\n2,5\n", "is a throughput series, which has no requests"),
    ],
)
def test_a_wrong_trace_is_one_line_that_says_where_and_nothing_is_written(error_of, name, text, message):
    assert error_of(name, text=text) == message


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"prompt": "Hello", "output_tokens": 5}\n', "prompt"),
        ('[{"conversations": [{"from": "human", "value": "Hello"}]}]', "line 1"),
    ],
)
def test_vllm_inputs_that_are_text_are_refused_with_the_way_out(error_of, text, field):
    assert error_of("vllm", text=text) == (
        f"{field}: prompts as text, which has no lengths without a tokenizer; give the result of a benchmark "
        "that used this file (vllm bench serve --save-result --save-detailed)"
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mooncake", "--max-input-toks 9", "no request is left (3 with prompts of more than 9 tokens)"),
        ("mooncake", "--start 4", "no request is left (3 outside --start and --duration)"),
        ("azure", "--token-ids", "--token-ids: azure traces do not say which prompts begin alike"),
        (
            "mooncake",
            "--token-ids --vocab-size 1",
            "--vocab-size: 1: must be above 1 for these hash ids",
        ),
    ],
)
def test_flags_that_do_not_fit_the_trace_are_refused(error_of, name, options, message):
    assert error_of(name, options) == message


def test_times_beyond_what_a_workload_holds_are_refused(error_of):
    far = "Timestamp,Request tokens,Response tokens\n0,1,1\n4e9,1,1\n"
    assert error_of("burstgpt", "--rate-scale 0.5", far) == (
        "--rate-scale: the last request would arrive after 2**62 ns; raise the scale"
    )
    many = "Timestamp,Request tokens,Response tokens\n" + "0,1,1\n" * 6_000
    assert error_of("burstgpt", "--arrivals bursts:1:1000000", many) == (
        "--arrivals: the last request would arrive after 2**62 ns; raise the rate"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--num-req 0", "argument --num-req: '0': must be a whole number of at least 1"),
        ("--rate-scale 0", "argument --rate-scale: '0': must be a number from 0.001 to 1000000"),
        ("--duration -1", "argument --duration: '-1': must be a number from 0.001 to 1000000"),
        *(
            (
                f"--inject-long {text}",
                f"argument --inject-long: '{text}': must be FRACTION:TOKENS[,FRACTION:TOKENS...] with "
                "fractions above 0 that sum up to 1 at most",
            )
            for text in ("0.02", "0.6:5,0.6:7", "")
        ),
        ("--inject-long 0.02:0", "argument --inject-long: '0': must be a number of tokens, at least 1"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_status_2(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "azure",
                "trace",
                "-o",
                str(tmp_path / "out"),
                *shlex.split(options.replace("long ", "long=", 1)),
            ]
        )
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {message} (--help explains)\n"


def test_files_that_are_not_there_or_cannot_be_written_are_named(tmp_path, capsys):
    (tmp_path / "trace").write_text(AZURE)
    assert main(["azure", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: no such file\n"
    assert main(["azure", str(tmp_path / "trace"), "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: -o: is a folder; give a file name\n"
    assert main(["vllm", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: no such file\n"


def test_a_failed_conversion_leaves_the_old_file(tmp_path, trace, capsys):
    out = trace("old", "out.jsonl")
    assert main(["azure", str(trace(AZURE + "\nx")), "-o", str(out)]) == 2
    assert out.read_text() == "old"


def test_help_names_every_format(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    assert all(f"  {name} " in help_text for name in FORMATS)
