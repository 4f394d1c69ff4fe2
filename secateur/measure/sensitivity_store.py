"""What a sensitivity scan keeps as it goes, so that a killed one continues and measures nothing twice."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from secateur.errors import TrainingError, UsageError
from secateur.record import Evaluation
from secateur.training import Store

MADE_FOR, DENSE = "sensitivity", "sensitivity-dense"  # names in the store


@dataclass(frozen=True, kw_only=True)
class KnownGroup:
    """What is known about one group so far."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    group: str
    proof_error: float | None = None  # of the deepest cut, None before it is proved
    refused: str | None = None  # why the group cannot be cut
    evaluations: dict[int, Evaluation] = field(default_factory=dict)  # units kept → what was measured


_GROUP = TypeAdapter(KnownGroup)
_EVALUATION = TypeAdapter(Evaluation)  # through JSON text, because only there infinity becomes a string


class ScanStore:
    """The part of a :class:`~secateur.training.Store` that belongs to a scan: each write is whole or not at all."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def claim(self, made_for: Mapping[str, JsonValue]) -> None:
        """Mark a new store; refuse one that was begun for something else.

        Raises:
            UsageError: the first value that differs, with both.
            TrainingError: the mark is damaged.
        """
        entry = self._store.recall(MADE_FOR)
        if entry is None:
            self._store.keep(MADE_FOR, dict(made_for))
            return
        if not isinstance(entry.values, dict):
            raise self._damaged(MADE_FOR)
        for key in dict.fromkeys((*made_for, *entry.values)):
            before, now = entry.values.get(key), made_for.get(key)
            if before != now:
                raise UsageError(
                    f"the scan in {self._store.folder} was begun with {key} = {before}, but this one has {now}; "
                    "continue with what began it, or scan in another folder"
                )

    def dense(self, measure: Callable[[], Evaluation]) -> Evaluation:
        """Return the dense model's evaluation, measured once.

        Raises:
            TrainingError: the entry is damaged.
        """
        entry = self._store.recall(DENSE)
        if entry is None:
            found = measure()
            self._store.keep(DENSE, json.loads(_EVALUATION.dump_json(found)))
            return found
        try:
            return _EVALUATION.validate_python(entry.values)
        except ValidationError as error:
            raise self._damaged(DENSE) from error

    def keep(self, number: int, known: KnownGroup) -> None:
        """Replace what is known about the group of this number."""
        self._store.keep(_name(number), json.loads(_GROUP.dump_json(known)))

    def recall(self, number: int) -> KnownGroup | None:
        """Return what is known about the group of this number.

        Raises:
            TrainingError: the entry is damaged.
        """
        entry = self._store.recall(_name(number))
        try:
            return None if entry is None else _GROUP.validate_python(entry.values)
        except ValidationError as error:
            raise self._damaged(_name(number)) from error

    def _damaged(self, name: str) -> TrainingError:
        return TrainingError(
            f"{name!r} in {self._store.folder} is not of a scan as this version writes it; scan in another folder"
        )


def order_digest(orders: Mapping[str, Sequence[int]]) -> str:
    """Return a hash of which units go first: the scores themselves may differ in the last bit between devices."""
    digest = hashlib.blake2b(digest_size=8)
    for name, units in orders.items():
        digest.update(f"\n{name}:{','.join(map(str, units))}".encode())
    return digest.hexdigest()


def _name(number: int) -> str:
    return f"sensitivity-{number:04d}"
