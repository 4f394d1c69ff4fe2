"""The published methods, one folder each, behind one contract."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from secateur.methods.contract import Compressed as Compressed
from secateur.methods.contract import Method as Method
from secateur.methods.contract import MethodRecord as MethodRecord
from secateur.methods.l1 import L1 as L1
from secateur.methods.magnitude import Magnitude as Magnitude

AnyMethod = Annotated[L1 | Magnitude, Field(discriminator="name")]
"""The settings of any method, told apart by ``name``: what a recipe holds."""

METHODS: Mapping[str, type[L1 | Magnitude]] = {"l1": L1, "magnitude": Magnitude}
"""Every method by name; contract tests run over all of them."""

__all__ = ["L1", "METHODS", "AnyMethod", "Compressed", "Magnitude", "Method", "MethodRecord"]
