"""What a run shows while it goes: interval lines with numbers by hand, and a progress bar only on a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from clusters import LinearLatency, cluster_file, instance, make_cluster, requests

from inference_serving.cli import main
from inference_serving.layer_group import WHOLE_MODEL
from inference_serving.progress import IntervalLog, ProgressBar
from inference_serving.settings import SchedulerSettings, SimulationConfig
from inference_serving.simulation import Simulation

SECOND = 1_000_000_000


def line(end_s: str, prompt: str, generated: str, running: int = 0, waiting: int = 0, kv: str = "0.0") -> str:
    return (
        f"[{end_s}s] prompt throughput: {prompt} tok/s, generation throughput: {generated} tok/s, "
        f"running: {running} reqs, waiting: {waiting} reqs, KV cache: {kv} %"
    )


def fake_instance(running: int = 0, waiting: int = 0, used: int = 0, capacity: int = 100) -> Any:
    """As much of an instance as an interval line looks at."""
    return SimpleNamespace(
        scheduler=SimpleNamespace(running=range(running), waiting=range(waiting)),
        kv_cache=SimpleNamespace(used_blocks=used, capacity_blocks=capacity, statistics=None),
        tiers=None,
    )


def lines_of(
    iterations: list[tuple[float, int, int]], interval_s: float, instances: list[Any] | None = None
) -> list[str]:
    """Lines of iterations given as (end in s, prompt tokens, generated tokens)."""
    stream = io.StringIO()
    by_id = dict(enumerate(instances or [fake_instance()]))
    log = IntervalLog(by_id, round(interval_s * SECOND), stream)
    for end_s, prompt, generated in iterations:
        batch, outcome = (
            SimpleNamespace(prompt_tokens=prompt, layer_group=WHOLE_MODEL),
            SimpleNamespace(generated_tokens=generated),
        )
        log.on_iteration(round(end_s * SECOND), by_id[0], batch, outcome)
    log.finish()
    return stream.getvalue().splitlines()


def test_tokens_are_summed_over_an_interval_and_divided_by_its_length():
    iterations = [(0.1, 100, 1), (0.3, 0, 4), (0.7, 10, 5)]
    assert lines_of(iterations, 0.5) == [line("0.50", "200.0", "10.0"), line("1.00", "20.0", "10.0")]


def test_intervals_may_be_longer_than_a_second():
    assert lines_of([(0.5, 100, 0), (3.9, 0, 2), (4.1, 0, 1)], 4) == [
        line("4.00", "25.0", "0.5"),
        line("8.00", "0.0", "0.2"),
    ]


def test_an_iteration_that_ends_with_an_interval_belongs_to_it():
    iterations = [(0.3, 0, 1), (0.5, 0, 2), (1.0, 0, 4)]
    assert lines_of(iterations, 0.5) == [line("0.50", "0.0", "6.0"), line("1.00", "0.0", "8.0")]


def test_intervals_in_which_nothing_ended_are_left_out():
    assert lines_of([(0.2, 0, 1), (7.3, 0, 1)], 0.5) == [
        line("0.50", "0.0", "2.0"),
        line("7.50", "0.0", "2.0"),
    ]


def test_there_is_no_line_before_the_first_interval_in_which_something_ended():
    assert lines_of([(7.3, 0, 1)], 0.5) == [line("7.50", "0.0", "2.0")]


def test_a_run_without_iterations_has_no_lines():
    assert lines_of([], 0.5) == []


def test_requests_and_blocks_are_those_of_all_instances():
    instances = [fake_instance(2, 1, 30, 100), fake_instance(3, 4, 10, 300)]
    assert lines_of([(0.1, 1, 1)], 0.5, instances) == [line("0.50", "2.0", "2.0", 5, 5, "10.0")]


def run_with_log(folder, lengths, gap_ns=0, config=None):
    """Run with iterations of 0.4 s (and some microseconds) on ten blocks of 16 tokens."""
    cluster = make_cluster(folder, [instance(folder, kv_tokens=161)], config)
    stream, observers = io.StringIO(), []
    latencies = {0: LinearLatency(step_overhead_ns=400_000_000)}
    workload = requests(*lengths, gap_ns=gap_ns)
    simulation = Simulation(cluster, workload, config or SimulationConfig(), latencies, observers)
    assert simulation.instances[0].kv_cache.capacity_blocks == 10
    log = IntervalLog(simulation.instances, SECOND // 2, stream)
    observers.append(log)
    simulation.run()
    log.finish()
    return stream.getvalue().splitlines()


def test_a_small_run_by_hand(tmp_path):
    """Iterations end at 0.4, 0.8 and 1.2 s: a prompt of 20 tokens and a token, a token, the last token.

    A line shows requests and blocks after the first iteration that ends later: two of ten blocks are in use
    after the second, none after the third.
    """
    assert run_with_log(tmp_path, [(20, 3)]) == [
        line("0.50", "40.0", "2.0", running=1, kv="20.0"),
        line("1.00", "0.0", "2.0"),
        line("1.50", "0.0", "2.0"),
    ]


ONE_AT_A_TIME = SimulationConfig(scheduler=SchedulerSettings(max_num_seqs=1))


def test_a_run_with_a_waiting_request_by_hand(tmp_path):
    """The first request runs to 0.8 s while the second waits; the second runs from 0.8 to 1.6 s."""
    assert run_with_log(tmp_path, [(16, 2), (16, 2)], config=ONE_AT_A_TIME) == [
        line("0.50", "32.0", "2.0", waiting=1),
        line("1.00", "0.0", "2.0", running=1, kv="10.0"),
        line("1.50", "32.0", "2.0"),
        line("2.00", "0.0", "2.0"),
    ]


def test_a_run_with_a_pause_by_hand(tmp_path):
    """The first request runs from 0 to 0.8 s, the second from 10 to 10.8 s.

    The line of the last interval before the pause is printed in the first iteration after it.
    """
    assert run_with_log(tmp_path, [(16, 2), (16, 2)], 10 * SECOND) == [
        line("0.50", "32.0", "2.0"),
        line("1.00", "0.0", "2.0", running=1, kv="10.0"),
        line("10.50", "32.0", "2.0"),
        line("11.00", "0.0", "2.0"),
    ]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Callable[[], Terminal]:
    """Call it to make stderr a plain terminal of 120 columns without colours."""
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def make() -> Terminal:
        shown = Terminal()
        monkeypatch.setattr(sys, "stderr", shown)
        return shown

    return make


def drive(bar: ProgressBar, iterations: int) -> None:
    """Report iterations of 0.01 s; every 64th finishes a request."""
    for number in range(1, iterations + 1):
        outcome = SimpleNamespace(finished=[None] * (number % 64 == 0))
        bar.on_iteration(number * SECOND // 100, None, None, outcome)


def test_a_bar_on_a_terminal_shows_requests_and_simulated_time(terminal):
    shown = terminal()
    with ProgressBar(total_requests=10) as bar:
        drive(bar, 700)  # shown after every 256th
    assert " 80% 8 requests, 5.1 s simulated, " in shown.getvalue()


def test_a_bar_says_what_it_is_before_there_is_anything_to_show(terminal):
    shown = terminal()
    with ProgressBar(total_requests=10):
        pass
    assert "simulating" in shown.getvalue()


def test_a_bar_takes_itself_away(terminal):
    shown = terminal()
    with ProgressBar(total_requests=10) as bar:
        drive(bar, 300)
    erase_line, show_cursor = "\x1b[2K", "\x1b[?25h"
    after_the_bar = shown.getvalue().rpartition("simulating")[2]
    assert erase_line in after_the_bar
    assert show_cursor in after_the_bar


def test_a_bar_ends_with_an_error_too(terminal):
    shown = terminal()
    with pytest.raises(RuntimeError, match="stall"), ProgressBar(total_requests=10):
        raise RuntimeError("stall")
    assert "\x1b[?25h" in shown.getvalue()


def test_without_a_terminal_there_is_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressBar(total_requests=10) as bar:
        drive(bar, 600)
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("iterations", [0, 255, 600])
def test_a_bar_changes_nothing_on_stdout(terminal, capsys, iterations):
    terminal()
    with ProgressBar(total_requests=10) as bar:
        drive(bar, iterations)
    assert capsys.readouterr().out == ""


def test_a_whole_run_on_a_terminal_keeps_stdout_free_of_the_bar(tmp_path, terminal, capsys):
    shown = terminal()
    workload = tmp_path / "w.jsonl"
    workload.write_text('{"input_toks": 9, "output_toks": 600, "arrival_time_ns": 0}\n')
    cluster = cluster_file(tmp_path, [instance(tmp_path)])
    assert main(["--cluster-config", str(cluster), "--dataset", str(workload)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("[0.50s] prompt throughput: ")
    assert "\x1b" not in out
    assert "simulating" not in out
    assert "simulating" in shown.getvalue()
