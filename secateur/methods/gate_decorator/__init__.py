"""Gate Decorator with Tick-Tock (You et al., NeurIPS 2019)."""

from secateur.methods.gate_decorator.method import GateDecorator as GateDecorator

__all__ = ["GateDecorator"]
