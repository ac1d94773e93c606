"""``python -m inference_serving.compare``: the table, and errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clusters import instance, make_cluster, requests, simulate

from inference_serving.compare import main
from inference_serving.output import collect, summary_json


def summary(
    requests_finished=100, iterations=(2004,), ttft=(13285.04, 33908.24), tpot=(30.4, 33.9), rate=429.4
):
    """The facts of a summary that the table shows."""
    return {
        "requests": {"given": 100, "finished": requests_finished},
        "throughput_per_s": {"requests": 1.0, "generated_tokens": rate},
        "latency_ms": {
            "ttft": {"mean": ttft[0], "median": 1.0, "p99": ttft[1]},
            "tpot": {"mean": tpot[0], "median": 1.0, "p99": tpot[1]},
        },
        "instances": [{"iterations": count} for count in iterations],
    }


def write(folder: Path, **summaries) -> list[str]:
    for name, facts in summaries.items():
        (folder / f"{name}.json").write_text(facts if isinstance(facts, str) else json.dumps(facts))
    return [str(folder / f"{name}.json") for name in summaries]


def test_runs_stand_side_by_side(tmp_path, capsys):
    files = write(tmp_path, fcfs=summary(), priority=summary(ttft=(11636.75, 38544.1), iterations=(61, 1900)))
    assert main(files) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run       requests  iterations  TTFT mean  TTFT p99  TPOT mean  TPOT p99  tok/s",
        "fcfs           100        2004    13285.0   33908.2       30.4      33.9    429",
        "priority       100        1961    11636.8   38544.1       30.4      33.9    429",
    ]


def test_columns_grow_with_their_numbers(tmp_path, capsys):
    main(write(tmp_path, a=summary(requests_finished=123_456_789, ttft=(1.0, 123_456_789_012.5))))
    head, row = capsys.readouterr().out.splitlines()
    assert len(head) == len(row)
    assert row.split() == ["a", "123456789", "2004", "1.0", "123456789012.5", "30.4", "33.9", "429"]


def test_one_run_is_a_table_too(tmp_path, capsys):
    assert main(write(tmp_path, alone=summary())) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_it_reads_what_a_run_writes(tmp_path, capsys):
    cluster = make_cluster(tmp_path, [instance(tmp_path), instance(tmp_path)])
    result = collect(cluster, simulate(cluster, requests((10, 3), (10, 1), (50, 9))))
    main(write(tmp_path, mine=summary_json(result.summary)))
    ttft_ms = [one.ttft_ns / 1e6 for one in result.metrics]
    cells = capsys.readouterr().out.splitlines()[1].split()
    assert cells[:2] == ["mine", "3"]
    assert cells[2] == str(sum(one.iterations for one in result.summary.instances))
    assert cells[3] == f"{sum(ttft_ms) / 3:.1f}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "not a summary written with --summary-json"),
        ("[]", "must be a JSON object"),
        ("{", "not valid JSON"),
        (json.dumps({**summary(), "instances": None}), "not a summary written with --summary-json"),
        (json.dumps({**summary(), "latency_ms": {"ttft": {}}}), "not a summary written with --summary-json"),
    ],
)
def test_another_file_is_an_error_that_names_it(tmp_path, capsys, text, complaint):
    assert main(write(tmp_path, good=summary(), other=text)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path}/other.json: ")
    assert complaint in captured.err


def test_a_missing_file_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere.json")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/nowhere.json: no such file\n"


def test_no_file_is_an_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "RUN.json" in capsys.readouterr().err
