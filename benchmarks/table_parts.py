"""Tables in Markdown, and the machine that a record was made on."""

from typing import Any


def rows_to_markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def machine(record: dict[str, Any]) -> str:
    place = record["environment"]
    return f"{place.get('cpu', '?')}, Python {place.get('python', '?')}, torch {place.get('torch', '?')}"
