"""What a run's summary says of pipeline stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference_serving.instance import Instance


@dataclass(frozen=True, slots=True)
class PipelineSummary:
    """Stages of one instance: the blocks of each, and how long each ran while the instance was busy, in ns."""

    blocks: tuple[int, ...]
    stage_busy_ns: tuple[int, ...]
    busy_ns: int

    @staticmethod
    def of(instance: Instance) -> PipelineSummary | None:
        """The summary of an instance, None if it has one stage only."""
        if instance.spec.pp_size == 1:
            return None
        return PipelineSummary(instance.spec.partition, tuple(instance.stage_busy_ns), instance.busy_ns)

    @property
    def bubble_ratio(self) -> float:
        """Share of the stages' time, while a batch was on its way, in which a stage had nothing to do."""
        total_ns = len(self.blocks) * self.busy_ns
        return 1 - sum(self.stage_busy_ns) / total_ns if total_ns else 0.0

    def facts(self) -> dict[str, Any]:
        """For the summary's JSON."""
        return {
            "pipeline": {
                "blocks": list(self.blocks),
                "stage_busy_ns": list(self.stage_busy_ns),
                "bubble_ratio": self.bubble_ratio,
            }
        }

    def lines(self) -> list[tuple[str, str]]:
        """The same for the summary on stdout."""
        return [
            ("Blocks of pipeline stages", " + ".join(map(str, self.blocks))),
            ("Pipeline bubbles (%)", f"{100 * self.bubble_ratio:.1f}"),
        ]
