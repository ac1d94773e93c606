"""Power samples, with a stand-in for NVML."""

import sys
import time
from types import SimpleNamespace

import pytest

from llm_profile.profiler.power import NoPowerError, PowerSampler, open_nvml


class NoCardError(Exception):
    pass


def no_card():
    raise NoCardError("no driver")


def test_samples_carry_the_phase_they_were_taken_in():
    nvml = SimpleNamespace(nvmlDeviceGetPowerUsage=lambda handle: handle)
    with PowerSampler(nvml, 70_500, period_s=0.001, idle_s=0.02) as sampler:
        sampler.enter("attention")
        until = time.monotonic() + 5
        while ",attention," not in sampler.csv() and time.monotonic() < until:
            time.sleep(0.001)
    header, *rows = sampler.csv().splitlines()
    assert header == "seconds,phase,power_w"
    phases = [row.split(",")[1] for row in rows]
    assert phases == sorted(phases, key=["idle", "attention"].index)
    assert {*phases} == {"idle", "attention"}
    assert {row.split(",")[2] for row in rows} == {"70.5"}


def test_without_the_package_the_reason_is_told():
    with pytest.raises(NoPowerError, match="nvidia-ml-py is not installed"):
        open_nvml(module="a_package_that_is_not_there")


def test_without_a_card_the_reason_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "fake_nvml", SimpleNamespace(NVMLError=NoCardError, nvmlInit=no_card))
    with pytest.raises(NoPowerError, match="NVML finds no card: no driver"):
        open_nvml(module="fake_nvml")
