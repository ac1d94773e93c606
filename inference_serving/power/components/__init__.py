"""The parts of a node: one file a part (importing it registers it)."""

from inference_serving.power.components import constant, cpu, cxl, dram, link, npu, pim

__all__ = ["constant", "cpu", "cxl", "dram", "link", "npu", "pim"]
