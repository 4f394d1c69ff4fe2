"""One step's candidates while samples are counted: who may still be the best."""

from collections.abc import Collection, Mapping

from secateur.methods.autoslim.front import Candidate


class Race:
    """Counts right answers, and drops candidates that cannot win whatever the remaining samples say.

    Attributes:
        alive: names of the groups that are still measured, in the order in which equal candidates rank.
    """

    def __init__(self, samples: int, counts: Mapping[str, int], *, bounds: bool) -> None:
        """Begin with all candidates.

        Args:
            samples: there are.
            counts: group → units that it would keep, in the order in which equal candidates rank.
            bounds: whether candidates are dropped.
        """
        self.alive = list(counts)
        self._samples, self._counts, self._bounds = samples, dict(counts), bounds
        self._right = dict.fromkeys(counts, 0)
        self._seen = dict.fromkeys(counts, 0)

    def keep(self, groups: Collection[str]) -> None:
        """Leave out all but these."""
        self.alive = [name for name in self.alive if name in groups]

    def count(self, group: str, right: int, samples: int) -> None:
        """Add what a batch gave."""
        self._right[group] += right
        self._seen[group] += samples

    def settle(self) -> None:
        """Drop who would lose even with all remaining samples right; call it when all have seen the same batches."""
        left = self._samples - self._seen[self.alive[0]]
        if not self._bounds or not left:
            return
        most = max(self._right[name] for name in self.alive)
        leader = next(place for place, name in enumerate(self.alive) if self._right[name] == most)
        self.alive = [
            name
            for place, name in enumerate(self.alive)
            # Of equal ones the first wins, so one behind the leader must get past it.
            if self._right[name] + left > most or (self._right[name] + left == most and place <= leader)
        ]

    def candidates(self) -> list[Candidate]:
        """Return all candidates with what was counted of them, those left out too."""
        return [
            Candidate(group=name, units=units, right=self._right[name], samples=self._seen[name])
            for name, units in self._counts.items()
        ]
