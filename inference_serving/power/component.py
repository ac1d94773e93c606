"""What a part of a node says about its power, and the registry of parts.

A new part is one file in ``components``: a class that overrides what
applies to it, with ``@register_component("name")``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from inference_serving.cluster import InstanceSpec, NodeSpec
from inference_serving.power.iteration_work import FloatArray, IterationWork
from inference_serving.power.schema import NodePower

J_PER_BYTE_OF_PJ_PER_BIT = 8e-12


@dataclass(frozen=True, slots=True)
class PoweredNode:
    """A node whose power is modelled, and the instances on it."""

    node: NodeSpec
    power: NodePower
    instances: tuple[InstanceSpec, ...]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """W drawn on top while an instance runs iterations, and for ``lasts_ns`` after each."""

    power_w: float
    lasts_ns: int


class PowerComponent:
    """A part of a node; it draws ``base_w`` always, and whatever else a subclass says.

    ``running_w`` comes on top while any instance of the node runs an iteration.
    """

    base_w: float = 0.0
    running_w: float = 0.0

    def occupancy(self, instance: InstanceSpec) -> Occupancy | None:
        """What an instance of the node adds while it runs, and shortly after."""
        del instance
        return None

    def energy_per_ns(self, work: IterationWork) -> FloatArray | None:
        """J that one more ns in each duration slot adds to an iteration, shape ``[duration slots]``."""
        del work
        return None

    def energy_per_byte(self, work: IterationWork) -> FloatArray | None:
        """J that one more byte in each size slot adds to an iteration, shape ``[size slots]``."""
        del work
        return None


ComponentFactory = Callable[[PoweredNode], PowerComponent | None]
FactoryT = TypeVar("FactoryT", bound=ComponentFactory)
_COMPONENTS: dict[str, ComponentFactory] = {}


def register_component(name: str) -> Callable[[FactoryT], FactoryT]:
    """Class decorator that adds a part; its factory returns None for a node that has no such part."""

    def register(factory: FactoryT) -> FactoryT:
        _COMPONENTS[name] = factory
        return factory

    return register


def make_components(node: PoweredNode) -> dict[str, PowerComponent]:
    """All parts that a node has, by name."""
    made = {name: factory(node) for name, factory in sorted(_COMPONENTS.items())}
    return {name: component for name, component in made.items() if component is not None}
