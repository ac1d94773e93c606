import gzip
import itertools
import json

import pytest

from astra_sim.input_error import InputError
from llm_profile.calibrate import main
from llm_profile.calibrate_runs import FIT_RUN, fit_iterations, read_run, run_errors
from llm_profile.hardware import find_hardware, load_hardware

MODEL = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 8192,
}
BASE, TOKEN, KV, PAIR, SEQUENCE, CONTEXT = 10e6, 400e3, 1500.0, 200.0, 150e3, 3000.0


def seconds(items):
    ns = BASE
    for _, n, context, prompt in items:
        ns += TOKEN * n + SEQUENCE
        ns += KV * (context + 1) if context >= prompt else PAIR * n * (context + n / 2) + CONTEXT * context
    return ns / 1e9


@pytest.fixture
def run(tmp_path):
    """A run whose iterations follow the formula exactly; the host takes 0.2 ms before and 0.1 ms after."""
    events = [{"ev": "add", "t": 0.0, "id": "a", "p": 64, "prio": 0}, {"ev": "it", "t0": 0.0, "items": []}]
    for n, context, decodes in itertools.product((16, 128, 512), (0, 512, 2048), (0, 1, 4)):
        items = [["a", n, context, 4096]] + [[f"d{i}", 1, 100 + 300 * i, 50] for i in range(decodes)]
        for some in (items, items[1:]):
            if some:
                end = seconds(some)
                events.append({"ev": "it", "t0": 0.0, "t1": 2e-4, "t2": end - 1e-4, "t3": end, "items": some})
    with gzip.open(tmp_path / FIT_RUN, "wt") as stream:
        stream.write("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "model_config.json").write_text(json.dumps(MODEL))
    return tmp_path


def test_a_fit_finds_the_coefficients_of_the_iterations(run):
    found = fit_iterations(read_run(run / FIT_RUN))
    assert found.tolist() == pytest.approx([BASE, TOKEN, KV, PAIR, SEQUENCE, CONTEXT], rel=1e-6)


def test_the_description_prices_the_iterations_like_the_run(run, capsys, tmp_path, monkeypatch):
    assert main(["--profiles", str(run), "--hardware", "CPU"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("step_overhead_ns: 300000\n")
    head = find_hardware("CPU").read_text().split("step_overhead_ns:")[0]
    folder = tmp_path / "llm_profile" / "hardware"
    folder.mkdir(parents=True)
    (folder / "CPU.yaml").write_text(head + printed)
    monkeypatch.chdir(tmp_path)
    ((name, (median, p90)),) = run_errors(load_hardware(find_hardware("CPU")), run).items()
    assert name == "prof2 iteration"
    assert median < 0.005
    assert p90 < 0.02
    assert main(["--profiles", str(run), "--hardware", "CPU", "--check"]) == 0
    assert "| CPU/prof2 iteration | " in capsys.readouterr().out


def test_a_run_without_iterations_is_refused(run):
    with gzip.open(run / FIT_RUN, "wt") as stream:
        stream.write('{"ev": "add", "t": 0}\n')
    with pytest.raises(InputError, match=r"prof2\.jsonl\.gz: no iterations in this run"):
        read_run(run / FIT_RUN)
