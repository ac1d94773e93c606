"""Attention times in memory, and how requests spread over channels."""

from __future__ import annotations

import numpy as np
import pytest
from pim_clusters import INI

from inference_serving.pim.device import load_device
from inference_serving.pim_model import (
    FIXED_TOKENS,
    MOST_CHANNELS,
    PUBLISHED_LINES,
    ChannelTimes,
    PimSpec,
    channels_in_unison,
    derived_line,
)
from llm_profile.model_config import load_model_config

LLAMA = load_model_config("meta-llama/Llama-3.1-8B")
DDR4 = load_device("DDR4_8GB_3200_pim")
GIB = 1 << 30


def tokens(*counts: int) -> np.ndarray:
    return np.array(counts, dtype=np.int64)


def times(channels: int, *, tp_size: int = 1, kv_bits: int = 16, model=LLAMA) -> ChannelTimes:
    return ChannelTimes(PimSpec(DDR4, channels), model, tp_size, kv_bits)


@pytest.mark.parametrize("name", PUBLISHED_LINES)
def test_one_request_on_one_channel_takes_the_published_line(name):
    device, line = load_device(name), PUBLISHED_LINES[name]
    alone = ChannelTimes(PimSpec(device, 1), LLAMA, 1, 16)
    assert alone.of(tokens(1000), tokens(0)).tolist() == [round(line.slope_ns * 1000 + line.fixed_ns)]


@pytest.mark.parametrize(("channels", "parts"), [(1, 1), (2, 2), (4, 4), (8, 8), (64, 8)])
def test_a_request_is_split_over_as_many_channels_as_it_has_heads(channels, parts):
    line = PUBLISHED_LINES[DDR4.name]
    found = times(channels).of(tokens(640), tokens(0))
    assert found[found > 0].tolist() == [round((line.slope_ns * 640 + line.fixed_ns) / parts)] * parts


def test_other_shapes_scale_with_the_bytes_of_their_kv():
    whole = times(1).of(tokens(4096), tokens(0))[0]
    assert times(1, kv_bits=8).of(tokens(4096), tokens(0))[0] == pytest.approx(whole / 2, abs=1)
    assert times(1, tp_size=2).of(tokens(4096), tokens(0))[0] == pytest.approx(whole / 2, abs=1)
    wide = LLAMA.model_copy(update={"num_key_value_heads": 32})
    assert times(1, model=wide).of(tokens(4096), tokens(0))[0] == pytest.approx(4 * whole, abs=4)


@pytest.mark.parametrize("channels", [1, 3, 6, 8, 12, 64])
def test_a_request_in_each_group_loads_all_channels_alike(channels):
    spread = times(channels)
    groups = np.arange(spread.groups)
    found = spread.of(np.full(spread.groups, 777, dtype=np.int64), groups)
    assert found.max() - found.min() <= 1
    assert set(spread.heads(groups).tolist()) == {8 * spread.groups // channels}


def test_requests_of_a_channel_take_turns():
    spread = times(64)
    one = spread.of(tokens(100), tokens(3))
    three = spread.of(tokens(100, 100, 100), tokens(3, 3, 5))
    assert three.max() == pytest.approx(2 * one.max(), abs=1)
    assert np.count_nonzero(three) == 16


@pytest.mark.parametrize(
    ("channels", "users", "unison"),
    [
        (64, [(LLAMA, 1)], 8),
        (64, [(LLAMA, 1), (LLAMA, 4)], 2),
        (12, [(LLAMA, 1)], 4),
        (7, [(LLAMA, 1)], 1),
        (4, [(LLAMA, 1)], 4),
    ],
)
def test_channels_that_work_in_unison_are_one_node(channels, users, unison):
    """Leaving the others out leaves the times of the first of each."""
    apart = PimSpec(DDR4, channels)
    assert channels_in_unison(apart, users) == unison
    for model, tp_size in users:
        every, some = (ChannelTimes(PimSpec(DDR4, channels, one), model, tp_size, 16) for one in (1, unison))
        groups = np.arange(every.groups).repeat(2)
        kv = 100 * (1 + np.arange(len(groups)))
        found = every.of(kv, groups)
        assert found.tolist() == some.of(kv, groups).repeat(unison).tolist()


def test_channels_are_as_many_as_make_up_the_memory():
    assert PimSpec.of(DDR4, 512 * GIB).channels == 64
    assert PimSpec.of(DDR4, 519 * GIB).channels == 64
    with pytest.raises(ValueError, match="channels of 8192 MiB, more than the whole memory"):
        PimSpec.of(DDR4, 7 * GIB)
    with pytest.raises(ValueError, match=f"at most {MOST_CHANNELS} are simulated"):
        PimSpec.of(DDR4, 8 * GIB * (MOST_CHANNELS + 1))


@pytest.mark.parametrize(("channels", "ranks"), [(64, 1), (64, 4), (7, 2), (2, 4)])
def test_ranks_share_the_channels_evenly(channels, ranks):
    shares = [PimSpec(DDR4, channels).channels_of_rank(rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert {channel for share in shares for channel in share} <= set(range(channels))
    if channels >= ranks:
        assert len({channel for share in shares for channel in share}) == ranks * (channels // ranks)


@pytest.mark.parametrize(
    ("name", "slope_error", "error_at_640"),
    [
        ("DDR4_8GB_3200_pim", 0.010, -0.028),
        ("LPDDR4X_2GB_4266_pim", 0.277, 0.261),
        ("LPDDR5_2GB_6400_pim", 0.283, 0.321),
        ("HBM2_1GB_2000_pim", -0.008, 0.014),
    ],
)
def test_what_the_files_say_against_what_was_published(name, slope_error, error_at_640):
    """The numbers of docs/pim.md; the fixed part of each device from those of the three others."""
    line, derived = PUBLISHED_LINES[name], derived_line(load_device(name))
    others = [one.fixed_ns / one.slope_ns for other, one in PUBLISHED_LINES.items() if other != name]
    guessed = derived.slope_ns * (640 + np.mean(others))
    assert derived.slope_ns / line.slope_ns - 1 == pytest.approx(slope_error, abs=0.001)
    assert guessed / (line.slope_ns * 640 + line.fixed_ns) - 1 == pytest.approx(error_at_640, abs=0.001)


def test_where_a_devices_times_come_from_is_reported(tmp_path):
    plain, measured = tmp_path / "plain.ini", tmp_path / "measured.ini"
    plain.write_text(INI.split("[pim]")[0])
    measured.write_text(INI)
    found = [PimSpec(load_device(str(file)), 2).facts() for file in (DDR4.name, plain, measured)]
    assert found == [
        {"device": name, "channels": 2, "attention_times": source}
        for name, source in ((DDR4.name, "published"), ("plain", "derived"), ("measured", "measured"))
    ]


def test_the_fixed_part_is_the_mean_of_the_published_ones():
    found = [line.fixed_ns / line.slope_ns for line in PUBLISHED_LINES.values()]
    assert np.mean(found) == pytest.approx(FIXED_TOKENS, abs=0.05)
