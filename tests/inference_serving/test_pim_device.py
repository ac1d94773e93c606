"""Devices that compute in memory: what their files say, and what is wrong with them."""

from __future__ import annotations

import pytest
from pim_clusters import INI

from astra_sim.input_error import InputError
from inference_serving.pim.device import load_device


@pytest.mark.parametrize(
    ("name", "mib", "gbps", "latency_ns", "idle_w", "active_w"),
    [
        ("DDR4_8GB_3200_pim", 8192, 25.6, 13.86, 0.623, 3.803),
        ("LPDDR4X_2GB_4266_pim", 2048, 8.532, 16.848, 0.07, 0.771),
        ("LPDDR5_2GB_6400_pim", 2048, 12.8, 10.625, 0.071, 0.877),
        ("HBM2_1GB_2000_pim", 1024, 32.0, 14.0, 0.16, 0.76),
    ],
)
def test_the_published_devices_by_name(name, mib, gbps, latency_ns, idle_w, active_w):
    """Bandwidth and latency of the first are those of a published run's memory: 1638.4 / 64 GB/s and 13.86 ns."""
    device = load_device(name)
    assert device.channel_bytes == mib << 20
    assert device.bandwidth_gbps == pytest.approx(gbps)
    assert device.read_latency_ns == pytest.approx(latency_ns)
    assert (device.idle_w, device.active_w) == (idle_w, active_w)


def test_the_projects_devices_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_device("HBM2_1GB_2000_pim").name == "HBM2_1GB_2000_pim"


def test_a_file_without_facts_beyond_dramsim3s(tmp_path):
    """Two transfers a cycle; power of the devices of a channel from their currents: 4 * 1.2 V * 50 or 250 mA."""
    file = tmp_path / "plain.ini"
    file.write_text(INI.split("[other]")[0] + "[thermal]\nroom = 1\n")
    device = load_device(str(file))
    assert device.bandwidth_gbps == 8 * 2000 / 0.5 / 1000
    assert (device.idle_w, device.active_w) == pytest.approx((0.24, 1.2))
    assert device.measured is None


def test_a_row_takes_its_opening_all_its_bursts_and_its_closing(tmp_path):
    (tmp_path / "one.ini").write_text(INI)
    device = load_device(str(tmp_path / "one.ini"))
    assert device.row_bytes == 1024 * 8
    assert device.row_ns == (20 + 1024 // 8 * 8 + 20) * 0.5


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("CL = 20", "", "timing.CL: this field is required"),
        ("tCK = 0.5", "tCK = 0", "timing.tCK: '0': input should be greater than 0"),
        ("tCK = 0.5", "tCK = nan", "timing.tCK: 'nan': input should be a finite number"),
        ("tRCD = 20", "", "timing: tRCD (or tRCDRD) is required"),
        ("tRP = 20", "tRP = x", "timing.tRP: 'x': input should be a valid integer, unable to parse string as an "),
        ("[system]", "[syste]", "system: this field is required"),
        ("channel_size = 1", "channel_size = -1", "system.channel_size: '-1': input should be greater than 0"),
        ("bus_width = 64", "bus_width = 60", "bus_width = 60 must be a multiple of 8 and of device_width = 16"),
        ("BL = 8", "BL = 7", "columns = 1024 must be a multiple of BL = 7"),
        ("idle_power = 1000", "", "idle_power and peak_power come together; give both, or neither"),
        ("peak_power = 3000", "peak_power = 1", "idle_power = 1000 must not be above peak_power = 1"),
        ("attention_fixed_ns", "fixed_ns", "pim.attention_fixed_ns: this field is required"),
        ("[timing]", "[timing]\ntCK = 1", "option 'tCK' in section 'timing' already exists"),
        ("[timing]", "nonsense\n[timing]", "line 6: must be KEY = VALUE or [section]"),
        ("\n[dram_structure]", "a = 1", "line 1: a [section] must come first"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_key(tmp_path, before, after, message):
    file = tmp_path / "wrong.ini"
    assert INI.count(before) == 1
    file.write_text(INI.replace(before, after))
    with pytest.raises(InputError) as error:
        load_device(str(file))
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)


def test_an_unknown_device_is_refused_with_those_that_are_known():
    with pytest.raises(InputError, match=r"'DDR9' is unknown; known devices: DDR4_8GB_3200_pim, .*INI file"):
        load_device("DDR9")


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "binary.ini").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a UTF-8 text file"):
        load_device(str(tmp_path / "binary.ini"))
