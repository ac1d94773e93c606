"""Points that a busy machine made too long are measured again."""

from fake_measurer import IDENTITY, FakeMeasurer

from llm_profile.profiler.journal import Journal
from llm_profile.profiler.plan import Kind, Point
from llm_profile.profiler.run import MOST_TRIES, disturbed, measure_missing
from llm_profile.profiler.samples import Stats

POINTS = [Point(Kind.ATTENTION, (0, 0, n, kv)) for n in (1, 2, 4) for kv in (16, 64)]
BUSY = POINTS[2]


class Disturbed(FakeMeasurer):
    """Takes ten times as long for one point, the first ``times`` times."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def measure(self, point):
        ns = super().measure(point)["attn"].median
        slow = point == BUSY and self.measured.count(point) <= self.times
        return {"attn": Stats.of([10 * ns if slow else ns])}


def profile(file, measurer):
    with Journal(file, IDENTITY) as journal:
        measure_missing(POINTS, journal, measurer)
        return dict(journal.points)


def test_a_point_slower_than_one_with_more_work_is_measured_again(tmp_path):
    measurer = Disturbed(1)
    points = profile(tmp_path / "j", measurer)
    assert measurer.measured == [*POINTS, BUSY]
    assert points == profile(tmp_path / "undisturbed", Disturbed(0))


def test_a_point_that_stays_slow_is_believed_and_not_tried_at_the_next_start(tmp_path):
    measurer = Disturbed(99)
    before = profile(tmp_path / "j", measurer)
    assert measurer.measured.count(BUSY) == MOST_TRIES
    again = Disturbed(99)
    assert profile(tmp_path / "j", again) == before
    assert again.measured == []


def test_the_faster_time_of_each_layer_is_kept(tmp_path):
    with Journal(tmp_path / "j", IDENTITY) as journal:
        point = Point(Kind.SPLIT_LAYERS, (1,))
        journal.add(point, {"q_proj": Stats.of([5.0]), "o_proj": Stats.of([9.0])})
        journal.add(point, {"q_proj": Stats.of([7.0]), "o_proj": Stats.of([3.0])})
    with Journal(tmp_path / "j", IDENTITY) as journal:
        assert {name: stats.median for name, stats in journal.points[point].items()} == {
            "q_proj": 5,
            "o_proj": 3,
        }


def test_a_little_faster_with_more_work_is_no_disturbance():
    def at(ns_of_less):
        less, more = (Point(Kind.SEQUENCES, (n,)) for n in (1, 2))
        return disturbed({less: {"lm_head": Stats.of([ns_of_less])}, more: {"lm_head": Stats.of([100.0])}})

    assert at(120.0) == []
    assert at(130.0) == [Point(Kind.SEQUENCES, (1,))]
