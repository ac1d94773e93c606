"""The command line: flags to a frozen config, one run, results out, and errors a user can act on.

Exit codes: 0 all requests finished, 2 bad input, 3 the simulation cannot go on, 130 interrupted,
141 nobody reads stdout any more.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from astra_sim import NetworkError
from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.config_builder import load_cluster
from inference_serving.dataset import read_dataset
from inference_serving.engine_inputs import refuse_unless_stock
from inference_serving.external_engine import ExternalEngineError
from inference_serving.files import check_folder, check_writable, write_whole
from inference_serving.flags import make_parser, simulation_config
from inference_serving.idle_flags import idle_flag_notes
from inference_serving.iteration_log import IterationLog
from inference_serving.latencies import open_latencies
from inference_serving.logger import set_up_logging
from inference_serving.output import RunResult, collect, summary_json, summary_text
from inference_serving.power.report import series_text
from inference_serving.power_model import PowerModel, make_power_model
from inference_serving.progress import IntervalLog, ProgressBar
from inference_serving.request_csv import csv_text
from inference_serving.router import needs_prefix_caching
from inference_serving.settings import SimulationConfig
from inference_serving.simulation import RunObserver, Simulation, SimulationStallError
from inference_serving.tiers.memory_series import MemorySeries
from inference_serving.trace_dump import TraceDump
from inference_serving.wait_ledger import WaitLedger
from inference_serving.workload_check import fit_workload

EXIT_BAD_INPUT, EXIT_STALLED, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 3, 130, 141


def main(argv: list[str] | None = None) -> int:
    """Run the simulator; returns the exit code."""
    args = make_parser().parse_args(argv)
    set_up_logging(args.log_level)
    try:
        config = simulation_config(args)
        _check_outputs(args)
        cluster = load_cluster(args.cluster_config, config)
        if args.engine_binary is not None:
            refuse_unless_stock(cluster, "--engine-binary")
        if args.dump_traces is not None and args.et_dialect == "astra-sim":
            refuse_unless_stock(cluster, "--et-dialect")
        for note in idle_flag_notes(config, cluster):
            print(f"note: {note}", file=sys.stderr)
        return _simulate(args, config, cluster)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (SimulationStallError, ExternalEngineError, NetworkError) as error:
        print(f"error: the simulation cannot go on: {error}", file=sys.stderr)
        return EXIT_STALLED
    except BrokenPipeError:  # whoever read stdout has gone, as in ``... | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:  # a full disk, a folder that has gone
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED


def _check_outputs(args: argparse.Namespace) -> None:
    """Outputs must be writable, and must not overwrite an input or each other."""
    taken = {args.cluster_config.resolve(): "--cluster-config"}
    if args.dataset is not None:
        taken[args.dataset.resolve()] = "--dataset"
    for flag in ("--output", "--summary-json", "--power-series", "--memory-series", "--iteration-log"):
        file: Path | None = getattr(args, flag[2:].replace("-", "_"))
        if file is None:
            continue
        check_writable(file, flag)
        place = file.resolve()
        if place in taken and not (place.exists() and not place.is_file()):
            raise InputError(file, flag, f"is the file of {taken[place]} too; give another name")
        taken[place] = flag
    if args.dump_traces is not None:
        check_folder(args.dump_traces, args.dump_traces, "--dump-traces")


def _simulate(args: argparse.Namespace, config: SimulationConfig, cluster: Cluster) -> int:
    keep_ids = any(spec.scheduler.enable_prefix_caching for spec in cluster.instances)
    router = config.request_routing_policy
    if not keep_ids and needs_prefix_caching(router, dict(config.router_args)):
        raise InputError(
            "", "--request-routing-policy", f"{router}: looks at cached prefixes; add --enable-prefix-caching"
        )
    specs = read_dataset(args.dataset, args.num_req, keep_token_ids=keep_ids)
    workload = fit_workload(args.dataset, specs, cluster)
    latencies = open_latencies(cluster, config)
    power = _power_model(args, config, cluster, workload[-1].arrival_ns)
    observers: list[RunObserver] = [] if power is None else [power]
    simulation = Simulation(cluster, workload, config, latencies, observers)
    with ProgressBar(len(workload)) as bar, _stop_on_interrupt(simulation):
        # with a bar on the same terminal, stdout is now one that prints above it
        power_w = None if power is None else power.mean_power_w
        interval_log = IntervalLog(simulation.instances, config.log_interval_ns, sys.stdout, power_w)
        observers.append(interval_log)
        if bar.shown:
            observers.append(bar)
        ledger = WaitLedger(simulation.instances) if config.wait_ledger else None
        if ledger is not None:
            observers.append(ledger)
        series = MemorySeries(simulation.instances, config.log_interval_ns) if args.memory_series else None
        if series is not None:
            observers.append(series)
        iterations = None if args.iteration_log is None else IterationLog()
        if iterations is not None:
            observers.append(iterations)
        if config.dump is not None:
            observers.append(TraceDump(config.dump, cluster))
        stalled: SimulationStallError | None = None
        try:
            simulation.run()
        except SimulationStallError as error:  # what has finished is reported all the same
            simulation.stop()
            stalled = error
        interval_log.finish()
    energy = None if power is None else power.report()
    result = collect(cluster, simulation, ledger.accounts if ledger is not None else None, energy)
    if iterations is not None:
        write_whole(args.iteration_log, iterations.text())
    code = _report(args, result, simulation)
    if series is not None:
        write_whole(args.memory_series, series.text())
    if stalled is not None:
        raise stalled
    return code


def _power_model(
    args: argparse.Namespace, config: SimulationConfig, cluster: Cluster, last_arrival_ns: int
) -> PowerModel | None:
    power = make_power_model(cluster, config.log_interval_ns, last_arrival_ns)
    if power is None and args.power_series is not None:
        raise InputError(
            cluster.file,
            "nodes[].power",
            "is missing, but --power-series needs it; give a node a power block",
        )
    return power


def _report(args: argparse.Namespace, result: RunResult, simulation: Simulation) -> int:
    output: Path | None = args.output
    energy = result.summary.energy
    if output is not None:
        write_whole(output, csv_text(result))
    if args.summary_json is not None:
        write_whole(args.summary_json, summary_json(result.summary))
    if args.power_series is not None and energy is not None:
        write_whole(args.power_series, series_text(energy))
    print(summary_text(result.summary), end="", flush=True)
    if not simulation.interrupted:
        return 0
    where = f"; {output} holds them" if output is not None else ""
    print(
        f"interrupted: {len(simulation.finished)} of {len(simulation.requests)} requests had finished{where}",
        file=sys.stderr,
    )
    return EXIT_INTERRUPTED


@contextmanager
def _stop_on_interrupt(simulation: Simulation) -> Iterator[None]:
    """While the simulation runs, Ctrl-C (or a polite kill) ends it at the next event; a second one kills."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        simulation.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    raise SystemExit(main())
