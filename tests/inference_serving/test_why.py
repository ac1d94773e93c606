"""The story of a request, told from the CSV of its run."""

from __future__ import annotations

import pytest
from clusters import cluster_file, instance
from hypothesis import given
from hypothesis import strategies as st

from inference_serving import cli, why
from inference_serving.wait_ledger import NOBODY, Cause

accounts = st.dictionaries(
    st.tuples(st.sampled_from(Cause), st.integers(NOBODY, 10_000)), st.integers(1, 10**12), max_size=6
)


@given(accounts)
def test_a_ledger_cell_reads_back(account):
    assert why.parse_ledger(why.ledger_text(account)) == account


def test_a_ledger_cell_has_the_largest_part_first():
    account = {(Cause.COMPUTE, NOBODY): 5, (Cause.BLOCKED, 7): 50}
    assert why.ledger_text(account) == "blocked:7=50 compute=5"


@pytest.fixture
def csv_of_a_run(tmp_path, capsys):
    """The CSV of a short prompt behind a long one, with the flags given."""

    def run(*flags: str):
        workload = tmp_path / "workload.jsonl"
        workload.write_text(
            '{"input_toks": 600, "output_toks": 1, "arrival_time_ns": 0, "class": "long"}\n'
            '{"input_toks": 10, "output_toks": 1, "arrival_time_ns": 1000}\n'
        )
        sections = [instance(tmp_path, 1, "prefill"), instance(tmp_path, 1, "decode")]
        cluster = cluster_file(tmp_path, sections)
        output = tmp_path / "run.csv"
        argv = ["--cluster-config", cluster, "--dataset", workload, "--output", output, *flags]
        assert cli.main([str(arg) for arg in [*argv, "--max-num-batched-tokens", 100]]) == 0
        capsys.readouterr()
        return output

    return run


def test_the_story_names_the_blocker_and_the_policys_promise(csv_of_a_run, capsys):
    output = csv_of_a_run("--wait-ledger", "--scheduling-policy", "bounded-overtake")
    assert why.main([str(output), "1"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("Request 1 (short, 10 prompt tokens), arrived at 0.000 s at instance 0.\n")
    assert "blocked by request 0 (long, 600 prompt tokens)" in told
    assert "computing its own prompt" in told
    assert "The policy had promised at most" in told


def test_an_engine_policy_has_promised_nothing(csv_of_a_run, capsys):
    assert why.main([str(csv_of_a_run("--wait-ledger")), "0"]) == 0
    told = capsys.readouterr().out
    assert "promised" not in told
    assert "a slowdown of" in told


def test_a_run_without_a_ledger_says_how_to_get_one(csv_of_a_run, capsys):
    output = csv_of_a_run()
    assert why.main([str(output), "1"]) == 2
    said = capsys.readouterr().err
    assert (
        said
        == f"error: {output}: wait_ledger: no such column, or it is empty; run main.py with --wait-ledger\n"
    )


def test_an_unknown_request_is_refused_with_the_known_ones(csv_of_a_run, capsys):
    output = csv_of_a_run("--wait-ledger")
    assert why.main([str(output), "9"]) == 2
    assert capsys.readouterr().err == (
        f"error: {output}: request id: 9: no such finished request; there are 0 to 1\n"
    )


@pytest.mark.parametrize("text", ["", "\0", "a,b\n1,2\n", "request id,wait_ledger\nx,compute=1\n"])
def test_a_file_that_is_no_csv_of_ours_is_refused(tmp_path, capsys, text):
    file = tmp_path / "other.csv"
    file.write_text(text)
    assert why.main([str(file), "0"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}: ")


def test_a_missing_file_is_refused(tmp_path, capsys):
    assert why.main([str(tmp_path / "none.csv"), "0"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.csv'}: no such file\n"
