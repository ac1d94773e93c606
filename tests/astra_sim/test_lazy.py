"""Modules that are imported when something of them is first used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from astra_sim.lazy import lazy_module


@pytest.fixture
def name(tmp_path, monkeypatch) -> str:
    """A module that prints when it is run; nobody has imported it."""
    (tmp_path / "idle_module.py").write_text("print('imported')\nVALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "idle_module", raising=False)
    return "idle_module"


def test_a_module_is_run_at_its_first_use_and_once(name, capsys):
    module = lazy_module(name)
    assert not capsys.readouterr().out
    assert (module.VALUE, module.VALUE) == (7, 7)
    assert capsys.readouterr().out == "imported\n"
    assert lazy_module(name) is module is sys.modules[name]


def test_an_ordinary_import_finds_the_same_module(name):
    module = lazy_module(name)
    assert __import__(name) is module


def test_a_module_that_is_not_there_is_an_error_at_once():
    with pytest.raises(ModuleNotFoundError, match="No module named 'nobody_wrote_this'"):
        lazy_module("nobody_wrote_this")


def test_a_plain_run_imports_neither_protobuf_nor_a_progress_bar_nor_masked_arrays(tmp_path):
    """In a process of its own: a whole run, and which modules it has really imported at its end."""
    script = f"""
import sys
from inference_serving.cli import main
main(["--dataset", "dataset/example_trace.jsonl", "--num-req", "2", "--output", {str(tmp_path / "x.csv")!r}])
lazy = [name for name, one in sys.modules.items() if type(one).__name__ == "_LazyModule"]
print("IMPORTED", *set(sys.modules).difference(lazy))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = set(run.stdout.split("IMPORTED")[1].split())
    assert "inference_serving.output" in imported
    unused = {"google.protobuf.message", "rich.progress", "rich.console", "numpy.ma"}
    assert not imported & unused
