"""What a recording of an engine's iterations holds."""

from __future__ import annotations

import json

import pytest

from inference_serving.replay import main
from integrations import recording
from integrations.recording import TICK_NS, IterationRecorder, clock_ns, seconds


@pytest.fixture
def at(monkeypatch):
    """Sets the clock of recordings, in ns."""

    def set_clock(ns: int) -> None:
        monkeypatch.setattr(recording, "clock_ns", lambda: ns)

    return set_clock


def record(file, at) -> None:
    """One request of 700 tokens, in two iterations."""
    recorder = IterationRecorder(file)
    recorder.added("a-0123abcd", 700, 3, 1_000_000_000)
    for start_ns, tokens, before in ((1_100_000_000, 512, 0), (1_500_000_000, 188, 512)):
        recorder.begun(start_ns)
        at(start_ns + 200_000)
        recorder.scheduled([("a-0123abcd", tokens, before, 700)], 76_000, w=0, run=1, pre=0)
        recorder.computed(start_ns + 300_000_000)
        at(start_ns + 301_000_000)
        recorder.ended()


def test_an_event_is_written_when_it_is_complete(tmp_path, at):
    file = tmp_path / "iters.jsonl"
    record(file, at)
    added, first, second = map(json.loads, file.read_text().splitlines())
    assert added == {"ev": "add", "t": 1.0, "id": "a", "p": 700, "prio": 3}
    assert first["items"] == [["a", 512, 0, 700]]
    assert [first[name] for name in ("t0", "t1", "t2", "t3")] == [1.1, 1.1002, 1.4, 1.401]
    assert (first["pol"], first["w"], first["run"], first["pre"]) == (7.6e-05, 0, 1, 0)
    assert second["items"] == [["a", 188, 512, 700]]


def test_a_recording_is_what_decision_replay_reads(tmp_path, at, capsys):
    file, requests = tmp_path / "iters.jsonl", tmp_path / "reqs.jsonl"
    record(file, at)
    requests.write_text('{"meta": {"mnbt": 512}}\n')
    assert main([str(file), str(requests)]) == 0
    assert capsys.readouterr().out == "equal 2 / 2\n"


def test_an_iteration_without_requests_is_left_out(tmp_path, at):
    file = tmp_path / "iters.jsonl"
    recorder = IterationRecorder(file)
    at(0)
    recorder.begun(0)
    recorder.scheduled([], 0)
    recorder.computed(0)
    recorder.ended()
    assert file.read_text() == ""


def test_a_callers_own_name_is_kept(tmp_path):
    file = tmp_path / "iters.jsonl"
    IterationRecorder(file).added("chat-7", 5, 0, 0)
    assert json.loads(file.read_text())["id"] == "chat-7"


def test_what_is_written_of_a_time_gives_it_back():
    for ns in (0, TICK_NS, 14_864_640_230_000, 10**15 + TICK_NS):
        assert round(seconds(ns) * 1e9) == ns


def test_the_clock_moves_in_ticks():
    assert clock_ns() % TICK_NS == 0
    assert clock_ns() > 0
