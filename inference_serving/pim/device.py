"""Memory devices that compute (processing in memory), read from DRAMSim3-style INI files.

A file describes one channel: its DRAM structure, timing in clock cycles, currents and size. ``[other]`` (data rate,
idle and peak power) is that of LLMServingSim 2.0's files, ``[pim]`` is ours: measured attention times of a device.
"""

from __future__ import annotations

from configparser import ConfigParser, Error, MissingSectionHeaderError, ParsingError
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from astra_sim.input_error import InputError, validated

PROJECT_DEVICE_DIR = Path(__file__).resolve().parents[2] / "pim_config"
_MIB = 1 << 20
_PositiveInt = Annotated[int, Field(gt=0, le=1 << 40)]
_PositiveFloat = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
_PowerMilliwatts = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class _IniSection(BaseModel):
    """Keys that are read; a DRAMSim3 file has many more, which decide nothing here."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class DramStructure(_IniSection):
    """A row has ``columns`` columns of ``bus_width`` bits; a burst is ``BL`` transfers."""

    columns: _PositiveInt
    device_width: _PositiveInt
    burst_length: _PositiveInt = Field(alias="BL")


class Timing(_IniSection):
    """``tCK`` in ns, all else in cycles of it; HBM files say ``tRCDRD`` for ``tRCD``."""

    clock_ns: _PositiveFloat = Field(alias="tCK")
    read_latency: _PositiveInt = Field(alias="CL")
    precharge: _PositiveInt = Field(alias="tRP")
    burst_gap: _PositiveInt = Field(alias="tCCD_L")
    """Between two bursts of one bank group."""
    activate: _PositiveInt | None = Field(default=None, alias="tRCD")
    activate_to_read: _PositiveInt | None = Field(default=None, alias="tRCDRD")

    @property
    def row_to_column(self) -> int:
        """From opening a row to reading it."""
        return self.activate_to_read or self.activate or 0

    @model_validator(mode="after")
    def _opens_rows(self) -> Self:
        if not self.row_to_column:
            raise ValueError("tRCD (or tRCDRD) is required")
        return self


class Currents(_IniSection):
    """Supply voltage (V) and currents (mA) of one device: precharged standby, and burst read."""

    volts: _PositiveFloat = Field(alias="VDD")
    standby_ma: _PositiveFloat = Field(alias="IDD2N")
    read_ma: _PositiveFloat = Field(alias="IDD4R")


class ChannelSystem(_IniSection):
    """Size of one channel in MiB and its width in bits."""

    channel_size: _PositiveInt
    bus_width: _PositiveInt


class OtherFacts(_IniSection):
    """MT/s and mW of a channel, where the file says so."""

    data_rate: _PositiveFloat | None = None
    idle_power: _PowerMilliwatts | None = None
    peak_power: _PowerMilliwatts | None = None


class AttentionTimes(_IniSection):
    """Measured attention of one request on one channel, in ns: see :class:`~.pim_model.AttentionLine`."""

    attention_ns_per_token: _PositiveFloat
    attention_fixed_ns: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class _IniFile(_IniSection):
    dram_structure: DramStructure
    timing: Timing
    power: Currents
    system: ChannelSystem
    other: OtherFacts = OtherFacts()
    pim: AttentionTimes | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        width, bus = self.dram_structure.device_width, self.system.bus_width
        if bus % width or bus % 8:
            raise ValueError(
                f"bus_width = {bus} must be a multiple of 8 and of device_width = {width} (whole devices)"
            )
        if self.dram_structure.columns % self.dram_structure.burst_length:
            raise ValueError(
                f"columns = {self.dram_structure.columns} must be a multiple of BL = {self.dram_structure.burst_length}"
            )
        idle, peak = self.other.idle_power, self.other.peak_power
        if (idle is None) != (peak is None):
            raise ValueError("idle_power and peak_power come together; give both, or neither")
        if idle is not None and peak is not None and idle > peak:
            raise ValueError(f"idle_power = {idle:g} must not be above peak_power = {peak:g}")
        return self


@dataclass(frozen=True, slots=True)
class PimDevice:
    """One channel of a memory that computes."""

    name: str
    structure: DramStructure
    timing: Timing
    currents: Currents
    system: ChannelSystem
    other: OtherFacts
    measured: AttentionTimes | None = None
    """Attention times that the file gives."""

    @property
    def channel_bytes(self) -> int:
        """Capacity of the channel."""
        return self.system.channel_size * _MIB

    @property
    def data_rate_mts(self) -> float:
        """Transfers a second in millions; two a clock cycle where the file does not say."""
        return self.other.data_rate or 2000 / self.timing.clock_ns

    @property
    def bandwidth_gbps(self) -> float:
        """What the channel's bus carries, in 1e9 bytes a second."""
        return self.system.bus_width / 8 * self.data_rate_mts / 1000

    @property
    def read_latency_ns(self) -> float:
        """From a column's address to its data: CL cycles."""
        return self.timing.read_latency * self.timing.clock_ns

    @property
    def row_bytes(self) -> int:
        """Bytes of an open row, all devices of the channel together."""
        return self.structure.columns * self.system.bus_width // 8

    @property
    def row_ns(self) -> float:
        """Time to open a row, read all of it inside one bank group, and close it."""
        bursts = self.structure.columns // self.structure.burst_length
        cycles = self.timing.row_to_column + bursts * self.timing.burst_gap + self.timing.precharge
        return cycles * self.timing.clock_ns

    @property
    def idle_w(self) -> float:
        """Power of the idle channel: as the file says, else VDD * IDD2N of its devices."""
        return self._power_w(self.other.idle_power, self.currents.standby_ma)

    @property
    def active_w(self) -> float:
        """Power while it computes: ``peak_power``, else VDD * IDD4R of its devices (without compute units)."""
        return self._power_w(self.other.peak_power, self.currents.read_ma)

    def _power_w(self, stated_mw: float | None, current_ma: float) -> float:
        devices = self.system.bus_width // self.structure.device_width
        return (stated_mw if stated_mw is not None else self.currents.volts * current_ma * devices) / 1000


def load_device(name_or_path: str) -> PimDevice:
    """Load a device by name (``DDR4_8GB_3200_pim``, a file of pim_config/) or from an INI file.

    Names are looked up in ``pim_config/`` of the current directory, then of the project.
    Raises InputError naming the file, the key and what would be right.
    """
    folders = (Path.cwd() / "pim_config", PROJECT_DEVICE_DIR)
    named = [folder / f"{name_or_path}.ini" for folder in folders]
    for file in (*named, Path(name_or_path).expanduser()):
        if file.is_file():
            return _read(file)
    known = ", ".join(sorted({file.stem for folder in folders for file in folder.glob("*.ini")})) or "none"
    raise InputError(
        "", "", f"{name_or_path!r} is unknown; known devices: {known}; or give a path to an INI file"
    )


def _read(file: Path) -> PimDevice:
    ini = validated(_IniFile, _sections(file), file)
    return PimDevice(file.stem, ini.dram_structure, ini.timing, ini.power, ini.system, ini.other, ini.pim)


def _sections(file: Path) -> dict[str, dict[str, Any]]:
    parser = ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"), default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    try:
        parser.read_string(file.read_text(encoding="utf-8-sig"), file.name)
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(file, "", "not a UTF-8 text file") from None
    except MissingSectionHeaderError as error:
        raise InputError(file, f"line {error.lineno}", "a [section] must come first") from None
    except ParsingError as error:
        line = error.errors[0][0] if error.errors else 0
        raise InputError(file, f"line {line}", "must be KEY = VALUE or [section]") from None
    except Error as error:  # a section or a key that comes twice
        raise InputError(file, "", str(error).replace("\n", " ")) from None
    return {name: dict(parser[name]) for name in parser.sections()}
