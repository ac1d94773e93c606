"""Pipelines that cannot be: one exact line on stderr, exit code 2, and nothing written."""

from __future__ import annotations

import pytest
from broken_clusters import AT, broken, refused, runner

TWO = {"npu_num": 2, "npu_group": 2}


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command on a cluster file."""
    return runner(tmp_path, capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"npu_num": 4, "npu_group": None, "pp_size": 4},
            "pp_size: 4: tiny: 2 blocks cannot be cut into 4 stages; use 1 to 2",
        ),
        (
            {"npu_num": 3, "npu_group": 3},
            "npu_group: 3: tiny: 2 blocks cannot be cut into 3 stages; use 1 to 2",
        ),
        (
            {**TWO, "pp_layer_partition": [2]},
            "pp_layer_partition: [2]: gives the blocks of 1 stage(s), but the instance has 2; give 2",
        ),
        (
            {"pp_layer_partition": [1, 1]},
            "pp_layer_partition: [1, 1]: gives the blocks of 2 stage(s), but the instance has 1; give 1",
        ),
        (
            {**TWO, "pp_layer_partition": [2, 1]},
            "pp_layer_partition: [2, 1]: is 3 blocks, but tiny has 2; the numbers must add up to 2",
        ),
        (
            {**TWO, "pp_layer_partition": [2, 0]},
            "pp_layer_partition[1]: 0: input should be greater than or equal to 1",
        ),
        (
            {"npu_num": 6, "npu_group": 2},
            "npu_num: tiny: 3: cannot split 4 attention heads, 4 K/V heads and intermediate_size 128 evenly; "
            "use one of 1, 2, 4",
        ),
        (
            {**TWO, "async_scheduling": True},
            "async_scheduling: true: batches are formed ahead by pipeline parallelism (2 stages) already; set it "
            "(here, or by --no-async-scheduling) to false",
        ),
        (
            {**TWO, "scheduling_policy": "srpt"},
            "scheduling_policy: srpt: prefill policies need each iteration's end before the next, which pipeline "
            "parallelism (2 stages) does not wait for; use one of fcfs, priority",
        ),
        (
            {**TWO, "num_speculative_tokens": 2, "speculative_acceptance_rate": 0.5},
            "num_speculative_tokens: 2: with pipeline parallelism (2 stages) the next batch would have to know how "
            "many drafts of those on their way are accepted; set it (here, or by --num-speculative-tokens) to 0",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(tmp_path, run, changes, message):
    file = broken(tmp_path, "instance", changes)
    assert run(file) == refused(file, f"{AT}.{message}")


def test_a_wait_ledger_is_refused(tmp_path, run):
    file = broken(tmp_path, "instance", TWO)
    assert run(file, "--wait-ledger") == refused(
        file,
        f"{AT}.pp_size: 2: --wait-ledger accounts for one iteration at a time, stages run several; drop the flag",
    )


@pytest.mark.parametrize(
    "changes", [TWO, {"npu_num": 4, "npu_group": 2}, {**TWO, "pp_layer_partition": [1, 1]}]
)
def test_stages_that_can_be_run(tmp_path, run, changes):
    outcome = run(broken(tmp_path, "instance", changes))
    assert (outcome.code, outcome.stderr) == (0, "")
