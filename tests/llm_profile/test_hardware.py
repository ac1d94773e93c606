from pathlib import Path

import pytest

from astra_sim.input_error import InputError
from llm_profile.hardware import find_hardware, known_hardware, load_hardware

DATASHEET = """\
name: CARD
source: a datasheet
memory: {bandwidth_gbps: 1000, size_gb: 80}
peak_tflops: {fp16: 200}
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "CARD.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", known_hardware())
def test_shipped_descriptions_are_physical(name):
    file = find_hardware(name)
    assert file is not None
    card = load_hardware(file)
    assert card.name == name
    if card.coefficients is None:
        return  # a datasheet only
    assert card.fit is not None
    assert card.coefficients.gemm.memory_efficiency < 1
    assert card.coefficients.gemm.compute_efficiency < 1
    assert card.coefficients.prefill.efficiency < 1
    limits = {"prompt": 0.2, "embedding": 0.2}
    assert all(error.median < limits.get(key.split()[-1], 0.15) for key, error in card.fit.errors.items())


def test_a_datasheet_is_enough(tmp_path):
    card = load_hardware(write(tmp_path, DATASHEET))
    assert card.coefficients is None
    assert card.step_overhead_ns == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DATASHEET + "colour: green\n", "colour: unknown field; check the spelling"),
        (
            DATASHEET.replace("1000", "-5"),
            "memory.bandwidth_gbps: -5: input should be greater than 0",
        ),
        (
            DATASHEET + "coefficients: {gemm: {fixed_ns: -1}}\n",
            "coefficients.gemm.fixed_ns: -1: input should be greater than or equal to 0",
        ),
        (
            DATASHEET + "coefficients: {gemm: {speed: 1}}\n",
            "coefficients.gemm.speed: unknown field; check the spelling",
        ),
        (
            DATASHEET + "step_overhead_ns: -1\n",
            "step_overhead_ns: -1: input should be greater than or equal to 0",
        ),
        ("name: CARD\n", "source: this field is required"),
        ("- CARD\n", "the top level must be a mapping, not list"),
    ],
)
def test_bad_descriptions_are_named(tmp_path, text, message):
    file = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_hardware(file)
    assert str(caught.value) == f"{file}: {message}"


def test_broken_yaml_names_the_line(tmp_path):
    file = write(tmp_path, "name: CARD\nmemory: {size_gb: 3\nlink: ]\n")
    with pytest.raises(InputError, match=r"CARD.yaml: line \d: not valid YAML"):
        load_hardware(file)
