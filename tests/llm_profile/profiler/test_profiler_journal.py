"""The journal: an interrupted profile goes on where it stopped, and ends in the same tables."""

import json

import pytest
from fake_measurer import IDENTITY, TINY, FakeMeasurer

from astra_sim.input_error import InputError
from llm_profile.profiler.bundle import bundle_files
from llm_profile.profiler.journal import Journal
from llm_profile.profiler.plan import Grid, Layout, Part, plan
from llm_profile.profiler.run import measure_missing
from llm_profile.profiler.tables import v1_files

POINTS = plan(TINY, Grid(max_tokens=32, max_seqs=4, max_context=64), Layout.BOTH, Part.ALL)


def profile(file, until=None):
    measurer = FakeMeasurer(until=until)
    with Journal(file, IDENTITY) as journal:
        try:
            measure_missing(POINTS, journal, measurer)
        except KeyboardInterrupt:
            assert until is not None
    return measurer.measured


def tables(file):
    with Journal(file, IDENTITY) as journal:
        return v1_files(journal.points, TINY, 1), bundle_files(journal.points, [])


def test_a_second_start_measures_nothing(tmp_path):
    assert profile(tmp_path / "j") == POINTS
    before = (tmp_path / "j").read_bytes()
    assert profile(tmp_path / "j") == []
    assert (tmp_path / "j").read_bytes() == before


@pytest.mark.parametrize("until", [0, 1, len(POINTS) // 2, len(POINTS) - 1])
def test_an_interrupted_profile_goes_on_where_it_stopped(tmp_path, until):
    profile(tmp_path / "whole")
    assert profile(tmp_path / "j", until) == POINTS[:until]
    assert profile(tmp_path / "j") == POINTS[until:]
    assert tables(tmp_path / "j") == tables(tmp_path / "whole")


@pytest.mark.parametrize("cut", [1, 30])
def test_half_a_line_is_measured_again(tmp_path, cut):
    file = tmp_path / "j"
    profile(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert profile(file) == POINTS[-1:]
    assert file.read_bytes() == whole


def test_half_a_first_line_starts_anew(tmp_path):
    (tmp_path / "j").write_bytes(b'{"hardw')
    assert profile(tmp_path / "j") == POINTS


def test_a_point_is_on_disk_before_the_next_is_measured(tmp_path):
    class Looking(FakeMeasurer):
        def measure(self, point):
            lines = (tmp_path / "j").read_text().splitlines()
            assert len(lines) == 1 + len(self.measured)
            return super().measure(point)

    with Journal(tmp_path / "j", IDENTITY) as journal:
        assert measure_missing(POINTS[:5], journal, Looking()) == 5


def test_points_of_another_device_are_not_mixed_in(tmp_path):
    profile(tmp_path / "j", 3)
    with pytest.raises(
        InputError, match=r"dtype: these points were measured with 'bfloat16', not 'float16'.*--fresh"
    ):
        Journal(tmp_path / "j", {**IDENTITY, "dtype": "float16"})


@pytest.mark.parametrize(
    "line", ["nonsense", '{"kind": "attention"}', '{"kind": "x", "key": [1], "ns": {}}', "[1]"]
)
def test_a_line_that_is_no_point_is_named(tmp_path, line):
    (tmp_path / "j").write_text(json.dumps(IDENTITY) + "\n" + line + "\n")
    with pytest.raises(InputError, match="line 2: not a measured point"):
        Journal(tmp_path / "j", IDENTITY)


def test_another_file_is_not_taken_for_a_journal(tmp_path):
    (tmp_path / "j").write_text("layer_name,input\n")
    with pytest.raises(InputError, match="line 1: not the journal of a profile"):
        Journal(tmp_path / "j", IDENTITY)


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(InputError, match=r"folder.j: cannot be"):
        Journal(tmp_path / "folder" / "j", IDENTITY)
