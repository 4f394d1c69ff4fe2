"""What came back after a cut without training, as tables and in words."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import JsonValue, TypeAdapter, ValidationError

from secateur.record import Restoration
from secateur.report.grid import Grid
from secateur.report.values import NOTHING, share
from secateur.wording import counted

SHOWN_CUTS = 20  # of a method with many cuts, the last ones
NAMED_LEFT = 4  # layers per reason

KEY = "restored"  # of the provenance of a model file

_RESTORATION: TypeAdapter[Restoration] = TypeAdapter(Restoration)


def restored_grid(restored: Sequence[Restoration]) -> Grid:
    """Return validation score, images and seconds of each step, one row per cut."""
    shown = restored[-SHOWN_CUTS:]
    names = list(dict.fromkeys(step.what for one in shown for step in one.steps))
    scores = (step.validation for one in shown for step in one.steps if step.validation)
    score = next((found.score_name for found in scores), "accuracy")
    more = f", the last {SHOWN_CUTS} of {len(restored)} cuts" if len(shown) < len(restored) else ""
    return Grid(
        title=f"Restored without training: validation {score}{more}",
        headers=("cut", *(f"after the {name}" if name == "cut" else f"after {name}" for name in names), *_MORE),
        rows=tuple(_row(one, names) for one in shown),
    )


_MORE = ("training images", "seconds")


def _row(one: Restoration, names: Sequence[str]) -> tuple[str, ...]:
    steps = {step.what: step for step in one.steps}
    done = [step for step in one.steps if step.images]
    return (
        str(one.cut),
        *(share(found.score) if name in steps and (found := steps[name].validation) else NOTHING for name in names),
        " + ".join(f"{step.images:,}" for step in done) or NOTHING,
        " + ".join(f"{step.seconds:.1f}" for step in done) or NOTHING,
    )


def error_grid(restored: Sequence[Restoration]) -> Grid | None:
    """Return how far each re-fitted layer is from its output before the last cut, or None where none was."""
    if not restored or not restored[-1].errors:
        return None
    rows = tuple((name, f"{before:.4f}", f"{after:.4f}") for name, (before, after) in restored[-1].errors.items())
    return Grid("Layers re-fitted", ("layer", "relative squared error, cut", "re-fitted"), rows)


def restored_facts(restored: Sequence[Restoration]) -> tuple[tuple[str, str], ...]:
    """Return what the last cut lost and what came back, and which layers were left as they were."""
    if not restored:
        return ()
    last = restored[-1]
    which = f"cut {last.cut}: " if len(restored) > 1 else ""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in last.left.items():
        by_reason[reason].append(name)
    left = [
        f"{', '.join(names[:NAMED_LEFT])}{f' and {len(names) - NAMED_LEFT} more' if len(names) > NAMED_LEFT else ''}: "
        f"{reason}"
        for reason, names in by_reason.items()
    ]
    return (("restored", which + last.in_words()), *(("not re-fitted", text) for text in left))


def refitted_facts(restored: Sequence[Restoration]) -> tuple[tuple[str, str], ...]:
    """Return how many layers were re-fitted after the last cut, and how far they were off before and after."""
    if not restored or not restored[-1].errors:
        return ()
    errors = restored[-1].errors
    before, after = (max(pair[place] for pair in errors.values()) for place in (0, 1))
    said = f"{counted(len(errors), 'layer')}; largest relative squared error {before:.4f} before and {after:.4f} after"
    return (("re-fitted", said),)


def told_restorations(provenance: Mapping[str, JsonValue]) -> tuple[Restoration, ...]:
    """Return what a model file says was restored: nothing where it says nothing, or says it in another form."""
    try:
        return (_RESTORATION.validate_python(provenance[KEY]),) if provenance.get(KEY) is not None else ()
    except ValidationError:
        return ()
