"""``secateur plan``."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli import choices, method_choices, show
from secateur.cli.method_options import MethodOptions
from secateur.cli.options import BudgetOptions, CommonOptions, InputOptions, ModelOptions, option, spread


@spread
def plan(
    model: ModelOptions,
    inputs: InputOptions,
    budget: BudgetOptions,
    method: MethodOptions,
    common: CommonOptions,
    drop_block: Annotated[
        list[str] | None,
        option(
            "What to cut",
            metavar="BLOCK",
            help="instead of a budget: drop this residual block, such as layer1.1, and keep all else; repeatable",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write the plan to this JSON file")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace the file if it is there")] = False,
) -> None:
    """Decide what to cut for a budget, and print it; nothing is cut.

    The plan can be written to a file, read, and applied with `secateur apply`.

    Example: `secateur plan --model resnet56-b --weights resnet56.safetensors --macs 0.5 --out plan.json`
    """
    from secateur import recipe, report

    if out is not None:
        recipe.check_target(out, force=force)
    if drop_block:
        method_choices.refuse_beside_blocks(budget, method)
        made = recipe.plan_without(choices.subject(model, inputs, common), drop_block)
    else:
        limits, chosen = choices.budget(budget, method), method_choices.method(method, seed=common.seed)
        made = recipe.make_plan(
            choices.subject(model, inputs, common),
            limits,
            chosen,
            latency_table=budget.latency_table,
            threads=common.threads,
        )
    if out is not None:
        recipe.write_plan(made.plan, out)
    if common.as_json:
        show.show_json(made.to_json())
        return
    facts = (
        *report.plan_facts(made.plan),
        *report.latency_facts(made.latency),
        *(("note", note) for note in made.notes),
        *([("plan file", str(out))] if out else []),
    )
    show.show(report.plan_grid(made.graph, made.plan), report.cost_grid(made.graph, made.plan), tuple(facts))
