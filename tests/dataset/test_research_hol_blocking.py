"""Specification of the head-of-line-blocking workloads: what each kind draws, rates, loads, phases, seeds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.research_hol_blocking import generate
from dataset.research_hol_blocking.arrivals import Phase, arrival_process, phased_arrivals, steady_arrivals
from dataset.research_hol_blocking.kinds import KINDS
from inference_serving.dataset import read_dataset
from inference_serving.request_spec import RequestSpec

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "dataset" / "research_hol_blocking"
COMMAND = "python -m dataset.research_hol_blocking.generate "
README_COMMANDS = [
    shlex.split(line.removeprefix(COMMAND))
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith(COMMAND) and "--output dataset/" in line
]
NS_PER_S = 1_000_000_000


@pytest.fixture
def make(tmp_path):
    def run(options: str, name: str = "out.jsonl") -> list[RequestSpec]:
        file: Path = tmp_path / name
        assert generate.main([*shlex.split(options), "--output", str(file)]) == 0
        return read_dataset(file, keep_token_ids=True)

    return run


def of_class(requests: list[RequestSpec], name: str) -> list[RequestSpec]:
    return [request for request in requests if request.request_class == name]


def lengths(requests: list[RequestSpec]) -> list[tuple[int, int]]:
    return [(request.input_tokens, request.output_tokens) for request in requests]


# The committed files


@pytest.mark.parametrize("command", README_COMMANDS, ids=lambda command: Path(command[2]).stem)
def test_the_readme_commands_make_the_committed_files(tmp_path, command):
    kind, output, file, *options = command
    assert output == "--output"
    again = tmp_path / "again.jsonl"
    assert generate.main([kind, "--output", str(again), *options]) == 0
    assert again.read_bytes() == (REPOSITORY / file).read_bytes()


def test_every_committed_workload_has_its_command_its_row_and_is_small():
    files = {file.name: file.stat().st_size for file in FOLDER.glob("*.jsonl")}
    assert {Path(command[2]).name for command in README_COMMANDS} == files.keys()
    assert max(files.values()) < 200_000
    assert sum(files.values()) < 1_000_000
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in files:
        requests = read_dataset(FOLDER / name)
        longs = len(of_class(requests, "long"))
        prompt_toks = sum(request.input_tokens for request in requests)
        last_s = requests[-1].arrival_ns / NS_PER_S
        row = f"| `{name}` | {len(requests)} | {longs} | {last_s:.1f} s | {prompt_toks:,} |"
        assert row in readme


def test_the_readme_names_every_kind():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in readme for name in KINDS)


# Lengths and classes


def test_shorts_have_the_lengths_stated(make):
    shorts = np.array(lengths(make("flood --rate 10 --requests 20000"))[1:])
    assert np.median(shorts, axis=0) == pytest.approx([512, 130], rel=0.02)
    unclipped = shorts[(shorts[:, 0] > 64) & (shorts[:, 0] < 2048)]
    below = np.log(unclipped[unclipped[:, 0] <= 512][:, 0] / 512)
    # ln(512 / 64) is 2.6 sigma: 0.8 * (phi(0) - phi(2.6)) / (Phi(2.6) - Phi(0))
    assert -below.mean() == pytest.approx(0.622, rel=0.02)
    assert shorts[:, 0].min() == 64
    assert shorts[:, 0].max() == 2048
    assert np.log(shorts[:, 1]).std() == pytest.approx(0.6, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "fraction", "tokens"),
    [
        ("long5-32k", 0.05, [32_768]),
        ("long2-64k", 0.02, [65_536]),
        ("long2-mix", 0.02, [32_768, 65_536, 130_048]),
    ],
)
def test_the_fraction_of_longs_and_their_lengths_are_as_named(make, kind, fraction, tokens):
    requests = make(f"{kind} --rate 10 --requests 20000")
    longs = of_class(requests, "long")
    assert len(longs) / len(requests) == pytest.approx(fraction, rel=0.15)
    values, counts = np.unique([request.input_tokens for request in longs], return_counts=True)
    assert values.tolist() == tokens
    assert counts == pytest.approx([len(longs) / len(tokens)] * len(tokens), rel=0.25)
    assert np.median([request.output_tokens for request in longs]) == pytest.approx(350, rel=0.1)
    assert max(request.input_tokens for request in of_class(requests, "short")) <= 2048


@given(seed=st.integers(0, 2**32), kind=st.sampled_from([("long5-32k", 0.05), ("long2-mix", 0.02)]))
def test_the_fraction_of_longs_is_nominal_within_sampling_error_for_any_seed(seed, kind):
    name, fraction = kind
    is_long = KINDS[name].is_long(np.random.default_rng(seed), 20_000)
    assert is_long.mean() == pytest.approx(fraction, abs=5 * (fraction * (1 - fraction) / 20_000) ** 0.5)


def test_the_longest_prompt_and_its_answer_fit_a_context_of_128k(make):
    requests = make("long2-mix --rate 10 --requests 20000")
    assert max(request.input_tokens + request.output_tokens for request in requests) <= 131_072


def test_a_flood_is_one_long_at_time_0_and_then_shorts(make):
    first, *rest = make("flood --load 1.15:20 --isolated-mean-ms 25")
    assert (first.arrival_ns, first.input_tokens, first.request_class) == (0, 130_048, "long")
    assert {request.request_class for request in rest} == {"short"}
    assert len(rest) == pytest.approx(1.15 * 20 / 0.025, rel=0.1)
    assert rest[-1].arrival_ns < 20 * NS_PER_S


def test_a_convoy_is_eight_longs_at_time_0(make):
    requests = make("convoy --rate 1 --requests 5")
    assert [request.arrival_ns for request in requests[:8]] == [0] * 8
    assert [request.input_tokens for request in of_class(requests, "long")] == [32_768] * 8
    assert len(of_class(requests, "short")) == 5


def test_alternating_requests_alternate(make):
    classes = [request.request_class for request in make("alternating --rate 1 --requests 5")]
    assert classes == ["long", "short", "long", "short", "long"]


def test_equal_prompts_are_equal(make):
    assert {request.input_tokens for request in make("equal --rate 1 --requests 50")} == {512}


# Token ids


def test_prompts_with_the_same_prefix_begin_alike_and_then_differ(make):
    requests = make("same-prefix --rate 1 --requests 50")
    ids = [request.input_token_ids or () for request in requests]
    longest = max(ids, key=len)
    assert all(one[:512] == longest[: min(len(one), 512)] for one in ids)
    own = [one[512:520] for one in ids if len(one) >= 520]
    assert len(own) > 10
    assert len(set(own)) == len(own)


def test_any_kind_may_share_a_prefix_of_any_length(make):
    requests = make("long5-32k --rate 1 --requests 40 --shared-prefix-toks 40000 --vocab-size 9")
    longest = max((request.input_token_ids or () for request in requests), key=len)
    assert len(longest) == 32_768
    assert all(request.input_token_ids == longest[: request.input_tokens] for request in requests)
    assert set(longest) == set(range(9))


def test_other_workloads_have_no_token_ids(make):
    assert {request.input_token_ids for request in make("long5-32k --rate 1 --requests 40")} == {None}


# Rates, loads and phases


@given(
    seed=st.integers(0, 2**32),
    process=st.sampled_from([("poisson", 1), ("gamma:2", 2), ("gamma:4", 4)]),
    rate=st.floats(0.01, 1e4),
)
@settings(max_examples=30)
def test_random_arrivals_have_the_rate_and_variation_asked_for(seed, process, rate):
    name, cv = process
    count = 20_000
    times = steady_arrivals(arrival_process(name), np.random.default_rng(seed), count, rate)
    gaps = np.diff(times, prepend=0)
    assert (gaps >= 0).all()
    # four standard errors of the mean; that of the squared CV comes from the fourth moment of the gaps
    assert gaps.mean() * rate / NS_PER_S == pytest.approx(1, abs=4 * cv / count**0.5)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv**2, rel=0.04 + 0.07 * cv)


@given(
    seed=st.integers(0, 2**32),
    levels=st.lists(
        st.tuples(st.one_of(st.just(0.0), st.floats(1, 100)), st.floats(1, 100)), min_size=1, max_size=4
    ),
)
@settings(max_examples=50)
def test_phases_have_the_number_of_arrivals_that_their_rates_ask_for(seed, levels):
    rates = (*(Phase(rate, seconds) for rate, seconds in levels), Phase(50, 10))
    times = phased_arrivals(arrival_process("poisson"), np.random.default_rng(seed), rates)
    assert (np.diff(times) >= 0).all()
    end_s = np.cumsum([0.0, *(phase.seconds or 0 for phase in rates)])
    counts, _ = np.histogram(times / NS_PER_S, end_s)
    assert counts.sum() == len(times)
    for count, phase in zip(counts, rates, strict=True):
        expected = phase.level * (phase.seconds or 0)
        assert count == pytest.approx(expected, abs=5 * expected**0.5)


def test_a_load_is_the_rate_at_which_prefill_alone_would_keep_so_many_instances_busy(make):
    by_load = make("long5-32k --load 0.9 --isolated-mean-ms 250 --instances 4 --requests 50", "load")
    assert by_load == make("long5-32k --rate 14.4 --requests 50", "rate")


def test_after_the_last_phase_nothing_arrives_and_the_number_follows_from_the_phases(make):
    requests = make("long5-32k --load 1.1:60,0:60,0.5:60 --isolated-mean-ms 100")
    times_s = np.array([request.arrival_ns for request in requests]) / NS_PER_S
    assert times_s.max() < 180
    counts, _ = np.histogram(times_s, [0, 60, 120, 180])
    assert counts == pytest.approx([660, 0, 300], rel=0.1)


def test_a_phase_has_the_arrivals_of_a_steady_rate_up_to_its_end(make):
    phased = make("long5-32k --rate 7:100", "phased")
    assert phased == make(f"long5-32k --rate 7 --requests {len(phased)}", "steady")


# Seeds


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(sorted(KINDS)), count=st.integers(1, 60))
@settings(max_examples=30)
def test_any_workload_is_valid_and_one_seed_makes_the_same_bytes(tmp_path_factory, seed, kind, count):
    file = tmp_path_factory.getbasetemp() / "property.jsonl"
    command = [kind, "--rate", "3", "--requests", str(count), "--seed", str(seed), "--output", str(file)]
    generate.main(command)
    text = file.read_bytes()
    requests = read_dataset(file)
    assert len(requests) == count + len(KINDS[kind].at_start)
    assert all(
        request.request_class == ("long" if request.input_tokens > 2048 else "short") for request in requests
    )
    generate.main(command)
    assert file.read_bytes() == text


def test_another_seed_makes_other_requests(make):
    options = "long5-32k --rate 3 --requests 40 --seed "
    one, other = make(options + "1"), make(options + "2")
    assert lengths(one) != lengths(other)
    assert [request.arrival_ns for request in one] != [request.arrival_ns for request in other]


def test_with_one_seed_kinds_rates_and_processes_share_what_they_can(make):
    base = make("long5-32k --rate 3 --requests 400")
    assert lengths(make("long5-32k --rate 9 --requests 400 --arrivals gamma:4")) == lengths(base)
    assert make("long5-32k --rate 3 --requests 200") == base[:200]
    other = make("long2-mix --rate 3 --requests 400")
    assert [request.arrival_ns for request in other] == [request.arrival_ns for request in base]
    pairs = zip(base, other, strict=True)
    both_short = [(a, b) for a, b in pairs if a.request_class == b.request_class == "short"]
    assert len(both_short) > 300
    assert all(a == b for a, b in both_short)


# The command line


def test_a_line_has_the_published_fields_the_class_and_the_ids(tmp_path):
    file = tmp_path / "out.jsonl"
    generate.main(["same-prefix", "--rate", "1", "--requests", "1", "--output", str(file)])
    fields = ["input_toks", "output_toks", "arrival_time_ns", "class", "input_tok_ids"]
    assert list(json.loads(file.read_text())) == fields


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rate 5", "give either --requests, or a rate or load of phases such as 1.1:60, which has an end"),
        (
            "--rate 5:60 --requests 5",
            "give either --requests, or a rate or load of phases such as 1.1:60, which has an end",
        ),
        ("--load 0.9 --requests 5", "--load and --isolated-mean-ms go together"),
        ("--rate 5 --isolated-mean-ms 5 --requests 5", "--load and --isolated-mean-ms go together"),
        ("--requests 5", "one of the arguments --rate --load is required"),
        (
            "--rate 0 --requests 5",
            "argument --rate: '0': must be a number from 0.001 to 1000000",
        ),
        ("--rate 0:60", "argument --rate: '0:60': must be above 0 in one phase at least"),
        ("--rate 5:60,3", "argument --rate: '5:60,3': must be LEVEL, or LEVEL:SECONDS for every phase"),
        (
            "--load x:5 --isolated-mean-ms 5",
            "argument --load: 'x': must be a number from 0.001 to 1000000",
        ),
        (
            "--rate 1 --requests 5 --arrivals gamma",
            "argument --arrivals: 'gamma': must be poisson or gamma:CV",
        ),
        (
            "--rate 0.001:0.001",
            "--rate, --load: no request arrives in this time; raise the rate or lengthen the phases",
        ),
        ("--rate 1000000:1000", "--rate, --load: 1e+09 requests would arrive; the limit is 1e+08"),
        (
            "--load 0.001 --isolated-mean-ms 1000000 --requests 10000",
            "--rate, --load: the last request would arrive after 2**62 ns, 146 years; raise the rate",
        ),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_status_2(tmp_path, capsys, options, message):
    file = tmp_path / "out.jsonl"
    with pytest.raises(SystemExit) as stopped:
        generate.main(["equal", "--output", str(file), *shlex.split(options)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {message} (--help explains)\n"
    assert not file.exists()


def test_an_unknown_kind_and_an_output_that_cannot_be_written_are_refused(tmp_path, capsys):
    for kind, words in (
        ("long9", "invalid choice: 'long9'"),
        ("equal", f"{tmp_path}: --output: is a folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            generate.main([kind, "--rate", "1", "--requests", "1", "--output", str(tmp_path)])
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err
