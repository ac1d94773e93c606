"""The command line of ``python -m astra_sim``: ASTRA-Sim's flags, finish lines and statistics."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from astra_sim._engine import NetworkError
from astra_sim.comm_groups import CommGroups, read_comm_groups
from astra_sim.custom_collectives import read_custom_collectives
from astra_sim.engine import Engine, EngineOptions
from astra_sim.et_graphs import read_graphs
from astra_sim.graph import CollectiveKind, Graph, Node, NodeKind
from astra_sim.input_error import InputError
from astra_sim.memory_config import read_memories
from astra_sim.network_config import read_network
from astra_sim.ns3_flags import add_ns3_flags, ns3_network
from astra_sim.report import Report
from astra_sim.stall_doctor import diagnosis
from astra_sim.system_config import MOST_NS, SystemConfig, read_system
from astra_sim.timeline import write_timeline

_MOST_QUEUES = 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or 2 after printing what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (InputError, ValueError, NetworkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    network, ns3 = ns3_network(options, read_network(options.network_configuration))
    system = _scaled(read_system(options.system_configuration), options.injection_scale)
    memory_file = options.remote_memory_configuration
    memories = read_memories(memory_file) if memory_file else []
    graphs, durations_ns, sizes = read_graphs(
        options.workload_configuration,
        network.npu_total,
        _groups(options.comm_group_configuration, network.npu_total),
        options.et_dialect,
    )
    _check_time_zero(graphs, system)
    engine = Engine(
        network,
        system,
        memories,
        EngineOptions(options.network_backend, options.num_queues_per_dim, options.rendezvous_protocol, ns3),
        read_custom_collectives(system, options.system_configuration, network.npu_total),
    )
    if any(graph.nodes for graph in graphs):
        template = engine.compile(graphs)
        if options.timeline is not None:
            engine.record()
        engine.submit(template, range(network.npu_total), durations_ns, sizes, 0)
        while engine.advance():
            pass
    report = Report(engine, graphs, system, durations_ns if system.replay_only else None)
    report.write(options.logging_folder, as_json=options.json)
    if options.timeline is not None:
        write_timeline(options.timeline, engine, graphs)
    return _report_stall(engine)


def _report_stall(engine: Engine) -> int:
    lines = diagnosis(engine.stall_report())
    if not lines:
        return 0
    print(f"error: deadlock: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr)
    return 2


def _scaled(system: SystemConfig, scale: float) -> SystemConfig:
    """ASTRA-Sim scales a configured endpoint-delay, not the default one."""
    if "endpoint_delay_ns" not in system.model_fields_set:
        return system
    scaled = int(system.endpoint_delay_ns * scale)
    if scaled > MOST_NS:
        raise ValueError(f"--injection-scale: an endpoint-delay of {scaled} ns is above 2^53")
    return system.model_copy(update={"endpoint_delay_ns": scaled})


def _groups(path: str, npu_count: int) -> CommGroups:
    """As in ASTRA-Sim, any path containing the letters "empty" means no groups."""
    if "empty" in path:
        return {}
    groups = read_comm_groups(path)
    for name, members in groups.items():
        for index, npu in enumerate(members):
            if npu >= npu_count:
                message = f"{npu}: the network has NPUs 0 to {npu_count - 1}"
                raise InputError(path, f"{name}[{index}]", message)
    return groups


def _check_time_zero(graphs: Sequence[Graph], system: SystemConfig) -> None:
    """ASTRA-Sim stops on an event at time 0: a collective that starts there must not have delay 0."""
    if system.endpoint_delay_ns > 0 or system.replay_only:
        return
    for npu, graph in enumerate(graphs):
        for node in graph.nodes:
            if _starts_system_collective(node):
                raise InputError(
                    "system configuration",
                    "endpoint-delay",
                    f"0 makes the collective of NPU {npu}, node {node.node_id} ({node.name}), step at time "
                    "0, which ASTRA-Sim cannot; use 1 or more",
                )


def _starts_system_collective(node: Node) -> bool:
    return (
        node.kind == NodeKind.COLL
        and node.collective != CollectiveKind.BROADCAST
        and not (node.data_deps or node.ctrl_deps or node.group)
    )


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _scale(text: str) -> float:
    scale = float(text)
    if not 0 <= scale < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a factor from 0 to 1e9")
    return scale


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= _MOST_QUEUES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_QUEUES}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m astra_sim",
        description="Simulate Chakra execution traces on an analytical network, as ASTRA-Sim does. Prints a "
        "finish line per NPU (1 cycle = 1 ns). Exit code 2: bad input, a feature not supported yet, or a "
        "deadlock, each named on stderr.",
        allow_abbrev=False,
    )
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument(
        "--workload-configuration", required=True, metavar="PREFIX", help="NPU i executes PREFIX.i.et"
    )
    inputs.add_argument("--system-configuration", required=True, metavar="FILE", help="system.json")
    inputs.add_argument("--network-configuration", required=True, metavar="FILE", help="network.yml")
    inputs.add_argument("--remote-memory-configuration", metavar="FILE", help="memory json (default: none)")
    inputs.add_argument(
        "--comm-group-configuration",
        default="empty",
        metavar="FILE",
        help='comm_group.json; a path containing "empty" means no groups (default)',
    )
    inputs.add_argument(
        "--et-dialect",
        choices=("chakra", "kaist"),
        default="chakra",
        help="kaist: node types and ns durations of the published serving fork (default: %(default)s)",
    )
    _add_model_options(parser.add_argument_group("model"))
    add_ns3_flags(parser.add_argument_group("packets, with --network-backend ns3"))
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON instead of lines")
    output.add_argument(
        "--timeline", metavar="FILE", help="Chrome trace events, for chrome://tracing or ui.perfetto.dev"
    )
    output.add_argument("--logging-configuration", metavar="FILE", help="accepted, has no effect")
    output.add_argument("--logging-folder", metavar="DIR", help="also write the report to DIR/log.log")
    return parser


def _add_model_options(model: argparse._ArgumentGroup) -> None:
    model.add_argument(
        "--network-backend",
        choices=("unaware", "aware", "ns3"),
        default="unaware",
        help="congestion model (default: %(default)s; ns3: see docs/ns3.md)",
    )
    model.add_argument(
        "--num-queues-per-dim",
        type=_count,
        default=1,
        metavar="N",
        help="queues for the streams of collectives (default: 1)",
    )
    model.add_argument(
        "--injection-scale",
        type=_scale,
        default=1.0,
        metavar="X",
        help="factor on endpoint-delay (default: 1)",
    )
    model.add_argument(
        "--rendezvous-protocol",
        type=_boolean,
        default=False,
        metavar="BOOL",
        help="messages wait for their receive (default: false)",
    )
    for name in ("comm-scale", "compute-scale"):
        model.add_argument(f"--{name}", type=float, metavar="X", help="accepted, no effect, as in ASTRA-Sim")
