"""The published methods, one folder each, behind one contract."""

from collections.abc import Mapping

from secateur.methods.contract import Compressed as Compressed
from secateur.methods.contract import Method as Method
from secateur.methods.contract import MethodRecord as MethodRecord
from secateur.methods.magnitude import Magnitude as Magnitude

METHODS: Mapping[str, type[Method]] = {"magnitude": Magnitude}
"""Every method by name; contract tests run over all of them."""

__all__ = ["METHODS", "Compressed", "Magnitude", "Method", "MethodRecord"]
