"""Milliseconds as a number that is no share, which one of at most 1 would be in a budget."""

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticSerializationUnexpectedValue, core_schema

from secateur.errors import BudgetError


class Milliseconds(float):
    """An absolute latency, written ``0.4ms``; a plain number of at most 1 is a share of the original's."""

    def __str__(self) -> str:
        return f"{float(self)!r}ms"

    def __repr__(self) -> str:
        return f"Milliseconds({float(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read and write it as text, so that it stays apart from a share."""
        del source, handler
        text = core_schema.no_info_after_validator_function(cls._from_text, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), text]),
            serialization=core_schema.plain_serializer_function_ser_schema(cls._written, when_used="json"),
        )

    @staticmethod
    def _written(value: Any) -> str:
        if not isinstance(value, Milliseconds):  # another kind of number in a union
            raise PydanticSerializationUnexpectedValue(f"{value!r} is a {type(value).__name__}")
        return str(value)

    @classmethod
    def _from_text(cls, text: str) -> "Milliseconds":
        number = text.strip().removesuffix("ms")
        try:
            return cls(number)
        except ValueError:
            raise BudgetError(
                f"latency_ms is {text!r}; give a share such as 0.5x, or an amount such as 3.2ms"
            ) from None
