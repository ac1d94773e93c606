"""The parts of a node: one file a part (importing it registers it)."""

from inference_serving.power.components import constant, cpu, cxl, dram, link, npu, pim  # noqa: F401
