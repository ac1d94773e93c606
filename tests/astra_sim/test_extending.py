"""docs/extending.md, built and run as it stands: a collective algorithm and a topology of one's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SOURCES = PROJECT / "astra-sim" / "src"
LIBRARIES = sorted(p for p in PROJECT.glob("build/*/libastra_engine.a") if p.parent.name != "sanitize")
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
BLOCK = re.compile(r"```cpp\n// (\S+)\n(.*?)```", re.DOTALL)
FIRST_LINE_AFTER = {"algorithm_registry.cc": 'if (name == "ring")', "wiring_registry.cc": '{"FullyConnected"'}
BYTES, GBPS, LATENCY_NS, DELAY_NS, MEMORY_GBPS = 1_000_000, 50, 500, 10, 1600

MAIN = """
#include <iostream>
#include <utility>
#include "engine/simulation.h"
using namespace astra;

Time finish(const std::string& backend, const std::string& wiring, std::vector<std::vector<NodeSpec>> graphs) {
  SimulationSpec spec;
  spec.network_backend = backend;
  spec.dimensions = {{find_wiring(wiring), static_cast<std::int32_t>(graphs.size()), %(gbps)d, %(latency)d}};
  spec.system.local_mem_bw_gbps = %(memory)d;
  spec.system.endpoint_delay_ns = %(delay)d;
  spec.system.algorithms[0] = {"hub"};
  Simulation simulation(std::move(spec));
  std::vector<NpuId> npus;
  for (std::size_t npu = 0; npu < graphs.size(); ++npu) npus.push_back(static_cast<NpuId>(npu));
  const std::vector<Bytes> sizes = {%(bytes)d};
  simulation.submit(simulation.compile(graphs), npus, {}, sizes, 0);
  while (!simulation.advance(std::nullopt).empty()) {}
  return simulation.now();
}

int main() {
  NodeSpec all_reduce;
  all_reduce.kind = NodeKind::kCollective;
  all_reduce.has_collective = true;
  all_reduce.size_slot = 0;
  std::cout << finish("unaware", "FullyConnected", {4, {all_reduce}}) << "\\n";
  NodeSpec send;
  send.kind = NodeKind::kSend;
  send.size_slot = 0;
  send.peer = 4;
  NodeSpec receive = send;
  receive.kind = NodeKind::kReceive;
  receive.peer = 0;
  for (const char* backend : {"unaware", "aware"}) {
    std::cout << finish(backend, "Line", {{send}, {}, {}, {}, {receive}}) << "\\n";
  }
}
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> list[int]:
    """What the program built from the page's text prints."""
    if not LIBRARIES or COMPILER is None:
        pytest.skip("needs the engine's library in build/ and a C++ compiler")
    folder = tmp_path_factory.mktemp("extending")
    numbers = {"gbps": GBPS, "latency": LATENCY_NS, "memory": MEMORY_GBPS, "delay": DELAY_NS, "bytes": BYTES}
    (folder / "main.cc").write_text(MAIN % numbers)
    headers, registries = [], []
    for name, text in BLOCK.findall((PROJECT / "docs" / "extending.md").read_text()):
        path = Path(name)
        if path.suffix == ".h":
            target = folder / path.relative_to("astra-sim/src")
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
            headers.append(str(path.relative_to("astra-sim/src")))
        else:
            source = (PROJECT / path).read_text()
            marker = FIRST_LINE_AFTER[path.name]
            assert source.count(marker) == 1, f"{path} has changed; so must docs/extending.md"
            include = f'#include "{headers[-1]}"\n'
            (folder / path.name).write_text(include + source.replace(marker, text.strip() + "\n" + marker))
            registries.append(folder / path.name)
    program = folder / "program"
    command = [
        COMPILER,
        "-std=c++20",
        "-O1",
        "-Wall",
        "-Werror",
        f"-I{folder}",
        f"-I{SOURCES}",
        "-o",
        program,
    ]
    subprocess.run([*command, folder / "main.cc", *registries, LIBRARIES[-1]], check=True)
    return [int(line) for line in subprocess.run([program], capture_output=True, check=True).stdout.split()]


def message_ns(hops: int) -> int:
    return int(hops * LATENCY_NS + BYTES / (GBPS * 2**30 / 1e9))


def test_the_collective_of_the_page_takes_the_time_that_the_page_says(printed):
    reduction_ns = 3 * int(BYTES / (MEMORY_GBPS * 1e9) * 1e9)
    assert printed[0] == 3 * DELAY_NS + 2 * message_ns(1) + reduction_ns


def test_the_topology_of_the_page_does_not_close_the_ring(printed):
    assert printed[1] == message_ns(4)
    assert printed[2] == 4 * message_ns(1)
