"""Memory of an instance whose stages hold different parts of the model: the stage with least room for KV decides."""

from __future__ import annotations

from dataclasses import dataclass

from inference_serving.layer_group import WHOLE_MODEL
from inference_serving.memory_model import MemoryPlan, Precision, plan_memory
from inference_serving.pipeline.stage import make_stages
from inference_serving.placement import Placement
from llm_profile.model_config import ModelConfig


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model lies on the NPUs of an instance: ``tp_size`` ranks a stage, ``partition`` blocks in each stage
    (empty: one stage), whole experts over ``ep_size`` NPUs (1: they are split over those of a stage)."""

    model: ModelConfig
    tp_size: int
    placement: Placement
    ep_size: int
    partition: tuple[int, ...] = ()


def tightest_plan(
    layout: Layout, precision: Precision, block_size: int, mem_size_gb: float, utilization: float
) -> tuple[MemoryPlan, str]:
    """The memory plan of the stage that holds the fewest KV blocks, and that stage in words ("" if there is one).

    A block of KV has its layers on all stages, so an instance has as many as its tightest stage.
    """
    plans = [
        (
            plan_memory(
                layout.model,
                layout.tp_size,
                precision,
                block_size,
                mem_size_gb,
                utilization,
                placement=layout.placement,
                ep_size=layout.ep_size,
                part=part,
            ),
            f" in stage {part.part}" if layout.partition else "",
        )
        for part in make_stages(layout.partition) or (WHOLE_MODEL,)
    ]
    # a stage whose KV is all elsewhere limits nothing, unless its weights do not even fit
    limiting = [
        one for one in plans if one[0].kv_bytes_per_block or one[0].weight_bytes > one[0].usable_bytes
    ]
    return min(limiting or plans, key=lambda one: one[0].kv_blocks)
