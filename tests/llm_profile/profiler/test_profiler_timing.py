"""Repeated shots, and the clock of a CUDA device, both without a device."""

import pytest

from llm_profile.profiler.timing import HIDE_LAUNCHES_CYCLES, CudaClock, HostClock, timed


class FakeTime:
    """A clock that runs by being told to."""

    def __init__(self):
        self.now_ns = 0

    def pass_ns(self, ns):
        self.now_ns += ns


def test_the_median_of_the_shots_after_two_warm_ups_counts():
    time = FakeTime()
    seconds = iter([9, 9, 1, 5, 2])

    def run(stamp):
        time.pass_ns(int(next(seconds) * 1e9))
        stamp("layer")

    stats = timed(run, HostClock(lambda: time.now_ns), repeats=3)["layer"]
    assert (stats.min, stats.median, stats.max) == (1e9, 2e9, 5e9)


def test_a_layer_of_several_blocks_counts_with_its_mean_and_nameless_intervals_not_at_all():
    time = FakeTime()

    def run(stamp):
        for ns, name in ((100, "a"), (7, ""), (300, "a"), (50, "b")):
            time.pass_ns(ns)
            stamp(name)

    times = timed(run, HostClock(lambda: time.now_ns), repeats=2)
    assert {name: stats.median for name, stats in times.items()} == {"a": 200, "b": 50}


def test_short_shots_are_repeated_more_often():
    time, shots = FakeTime(), []

    def run(stamp):
        shots.append(1)
        time.pass_ns(10_000_000)
        stamp("layer")

    timed(run, HostClock(lambda: time.now_ns), repeats=3)
    assert len(shots) == 2 + 10  # a tenth of a second


class FakeCuda:
    """The part of ``torch.cuda`` that the clock uses: work is queued and runs later, in order."""

    def __init__(self):
        self.now_ms = 0.0
        self.calls = []

    def synchronize(self):
        self.calls.append("synchronize")

    def _sleep(self, cycles):
        self.calls.append(cycles)
        self.now_ms += 10

    def Event(self, enable_timing):  # noqa: N802
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda

    def record(self):
        self.at_ms = self.cuda.now_ms

    def elapsed_time(self, later):
        assert self.cuda.calls[-1] == "synchronize"
        return later.at_ms - self.at_ms


def test_cuda_intervals_are_device_time_between_events():
    cuda = FakeCuda()
    clock = CudaClock(cuda)
    for _ in range(2):  # a second run forgets the first
        clock.start()
        cuda.now_ms += 0.25
        clock.stamp()
        cuda.now_ms += 1.5
        clock.stamp()
        assert clock.intervals_ns() == pytest.approx([0.25e6, 1.5e6])
    assert cuda.calls[:2] == ["synchronize", HIDE_LAUNCHES_CYCLES]
