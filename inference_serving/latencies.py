"""Opens the latency model of every instance, each kind once."""

from __future__ import annotations

from astra_sim.input_error import InputError
from inference_serving.cluster import Cluster
from inference_serving.settings import SimulationConfig
from llm_profile.latency import LatencyModel, LatencyQuery, NoLatencyError, check_serves, open_latency_model
from llm_profile.scaled import ScaledLatencyModel


def open_latencies(cluster: Cluster, config: SimulationConfig) -> dict[int, LatencyModel]:
    """Latency model by instance id; instances alike in hardware, model and precision share one.

    Raises InputError, naming the instance, for hardware or a precision without latencies.
    """
    opened: dict[LatencyQuery, LatencyModel] = {}
    latencies: dict[int, LatencyModel] = {}
    for spec in cluster.instances:
        query = LatencyQuery(
            hardware=spec.hardware,
            model=spec.model,
            tp_size=spec.tp_size,
            weight_bits=spec.precision.weight_bits,
            kv_bits=spec.precision.kv_bits,
            mem_bw_gbps=spec.mem_bw_gbps,
            profile_dir=config.profile_dir,
            packed_decode=config.packed_decode,
            expert_tp_size=spec.expert_tp_size,
            ep_size=spec.ep_size,
            predicted_attention=config.attn_prediction,
        )
        if query not in opened:
            try:
                opened[query] = _open(query, config.latency_source, config.latency_scale)
            except InputError as error:
                if error.file:
                    raise
                here = [one for one in cluster.instances if one.node_id == spec.node_id].index(spec)
                field = f"nodes[{spec.node_id}].instances[{here}].{error.field}"
                raise InputError(cluster.file, field, error.message) from None
        latencies[spec.instance_id] = opened[query]
    return latencies


def _open(query: LatencyQuery, source: str, scale: float) -> LatencyModel:
    latency = open_latency_model(query, source)
    try:
        check_serves(latency, query)  # a source without experts says so before the run
    except NoLatencyError as error:
        hint = "take another --latency-source, such as calibrated"
        if query.expert_tp_size > 1:
            hint += ", or set ep_size to the number of NPUs, so that experts stay whole"
        raise InputError(error.file, error.field, f"{error.message}; {hint}") from None
    return latency if scale == 1 else ScaledLatencyModel(latency, scale)
