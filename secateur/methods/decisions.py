"""What a run's store knows of its decisions, and whether they were made for the same job."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, TypeAdapter

from secateur.errors import TrainingError
from secateur.record import with_defaults
from secateur.training import Entry, Store


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The decisions of a method in a store.

    Attributes:
        store: keeps them.
        settings: of the method, as JSON.
        undecisive: names of settings that do not touch what is cut, so that they may change when a run continues.
        kind: reads such settings, those of earlier versions too; None compares them as they were written.
    """

    store: Store
    settings: Mapping[str, JsonValue]
    undecisive: frozenset[str]
    kind: TypeAdapter[Any] | None

    @property
    def decisive(self) -> dict[str, JsonValue]:
        """The settings that touch what is cut."""
        return {name: value for name, value in self.settings.items() if name not in self.undecisive}

    def recalled(self, name: str, made_for: Mapping[str, JsonValue]) -> dict[str, JsonValue] | None:
        """Return the values of a decision of an earlier run of the same job, or None.

        Raises:
            TrainingError: as :meth:`entry`.
        """
        entry = self.entry(name, made_for)
        return entry.values if entry is not None and isinstance(entry.values, dict) else None

    def entry(self, name: str, made_for: Mapping[str, JsonValue]) -> Entry | None:
        """Return a decision of an earlier run of the same job with its tensors, or None.

        Raises:
            TrainingError: the store belongs to another job; names what differs, with both values.
        """
        entry = self.store.recall(name)
        if entry is None:
            return None
        known = entry.values if isinstance(entry.values, dict) else {}
        found = known.get("made_for")
        if not isinstance(found, dict):
            raise TrainingError(f"{name} in {self.store.folder} is not a decision of this method; use another folder")
        begun = self._as_written_now(found)
        for key, value in made_for.items():
            # As text, because the order of ratios decides, and mappings are equal in any order.
            if json.dumps(begun.get(key)) != json.dumps(value):
                raise TrainingError(
                    f"the store {self.store.folder} belongs to another run: {name} was decided for {key} = "
                    f"{begun.get(key)}, not {value}; continue with the settings that began it, or use another folder"
                )
        return entry

    def _as_written_now(self, begun: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Return what an earlier version wrote as this one does: a setting that is new has its default."""
        if self.kind is None:
            return begun
        known = {*begun, *self.undecisive}
        own = {name: begun.get(name, value) for name, value in self.settings.items() if name in known}
        return {**with_defaults(own, self.kind), **{name: begun[name] for name in begun if name not in own}}
