"""Flags that do not go together, and a machine without PyTorch; nothing is measured here."""

import importlib.util

import pytest

from llm_profile.profiler.cli import main

MODEL = ["--model", "meta-llama/Llama-3.1-8B", "--hardware", "CARD"]


@pytest.fixture
def torch_is_there(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def error_of(capsys, *flags):
    assert main([*MODEL, *flags]) == 2
    return capsys.readouterr().err


def test_without_torch_it_says_how_to_get_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "error: torch: is not installed; run ./compile.sh --with profile" in error_of(
        capsys, "--output", str(tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("torch_is_there")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dtype", "float32"], "--dtype: float32: v1 tables are of 16-bit numbers; use --layout bundle"),
        (["--clock", "cpu", "--threads", "2"], "--clock: cpu: counts one thread of a CPU"),
        (
            ["--clock", "cpu", "--device", "cuda", "--threads", "1"],
            "--clock: cpu: counts one thread of a CPU",
        ),
        (["--density", "0"], "--density: 0: must be above 0"),
        (["--max-batch-kv", "100"], "--max-batch-kv: 100: must hold a chunk"),
    ],
)
def test_flags_that_do_not_fit_are_refused(capsys, flags, message):
    assert message in error_of(capsys, *flags)


@pytest.mark.usefixtures("torch_is_there")
def test_counts_must_be_positive(capsys):
    with pytest.raises(SystemExit) as exit_code:
        main([*MODEL, "--max-seqs", "0"])
    assert exit_code.value.code == 2
    assert "0: must be at least 1" in capsys.readouterr().err
