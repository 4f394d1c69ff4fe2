"""``secateur search``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli import show
from secateur.cli.options import option, spread

if TYPE_CHECKING:
    from secateur.cost import Budget
    from secateur.recipe import WidthSearchResult


@spread
def search(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|FOLDER",
            help="a recipe with the method autoslim: a .yaml file or a name; with --pick, the folder of a search",
        ),
    ],
    out: Annotated[
        Path | None,
        option(
            None,
            "--out",
            "-o",
            help="folder of the search, without it the recipe's name with -run behind it; with --pick, folder of the "
            "picked network, without it FOLDER with the budget behind it",
        ),
    ] = None,
    pick: Annotated[
        list[str] | None,
        option(
            "Picking",
            "--pick",
            metavar="COST=AMOUNT",
            help="cut the super-net to the first network of the front with at most this cost: macs=0.4, params=100K, "
            "size_bytes=1M, activation_bytes=50%, latency_ms=0.5x; several hold together. Shares are of the super-net",
        ),
    ] = None,
    latency_table: Annotated[
        Path | None,
        option(
            "Picking",
            "--latency-table",
            help="what `secateur measure` made of the super-net, for latency_ms; without it that of the recipe",
        ),
    ] = None,
    train: Annotated[
        bool,
        option(
            "Picking",
            "--train/--no-train",
            help="train what was picked from random weights, as the recipe says; otherwise it keeps the super-net's "
            "weights, which is at once done but less accurate",
        ),
    ] = False,
    further: Annotated[
        bool,
        option(
            "Picking",
            "--further",
            help="where no network of the front costs so little, search on from its end; the super-net stays as it is",
        ),
    ] = False,
    force: Annotated[bool, option(None, "--force", help="start over in the folder of another run")] = False,
    settings: Annotated[
        list[str] | None,
        option("Recipe", "--set", metavar="KEY=VALUE", help="replace a setting: --set budget.macs=0.2; repeatable"),
    ] = None,
    allow_code: Annotated[
        bool, option("Recipe", "--allow-code", help="run the file.py:function that the recipe names")
    ] = False,
    threads: Annotated[int | None, option(None, help="CPU threads; without it, as the recipe says")] = None,
    device: Annotated[str | None, option(None, help="auto, cpu, cuda, cuda:1 or mps")] = None,
    as_json: Annotated[bool, option(None, "--json", help="print the result as JSON")] = False,
    quiet: Annotated[bool, option(None, "--quiet", "-q", help="show no progress")] = False,
    verbose: Annotated[bool, option(None, "--verbose", "-v", help="show where an error came from")] = False,
) -> None:
    """Train one network at all widths and slim it step by step: which widths are best at every cost.

    The model of the recipe is the super-net, the widest network, such as resnet20@1.5x. The folder gets the whole front
    of accuracy against cost, as table (front.md), JSON (front.json) and figure (front.svg), and the widths that were
    found against those of the default network (widths.svg); beside it stand networks of one width multiplier at the
    same cost. The same command continues a search that was stopped. Then either `--pick` networks from the front, which
    costs no further search, or run `secateur compress` with the same recipe and folder.

    Example: `secateur search autoslim_digits-resnet_digits --out front`, a minute, then `secateur search --pick
    macs=0.5 --train front --out picked`
    """
    del verbose  # read by the command itself
    from secateur import recipe as recipes
    from secateur.cli.choices import on_machine
    from secateur.errors import UsageError

    if pick:
        if settings:
            raise UsageError("--set belongs to the search; a pick takes its recipe from the folder")
        folder, budget = Path(recipe), _budget(pick)
        if latency_table is not None and budget.latency_ms is None:
            raise UsageError(
                f"--latency-table is {latency_table}, but --pick is {', '.join(pick)} and asks for no milliseconds; "
                "add --pick latency_ms=0.5x, or leave --latency-table out"
            )
        picked = recipes.picked_recipe(
            folder, budget, train=train, latency_table=latency_table, further=further, allow_code=allow_code
        )
        done = recipes.compress(
            on_machine(picked, threads, device),
            out or folder.with_name("-".join([folder.resolve().name, *pick]).replace("=", "-")),
            force=force,
            command=show.words(),
            progress=show.progress(quiet=quiet),
            begun_in=folder,
            further=further,
        )
        show.show_result(done, as_json=as_json)
        return
    if train or further:
        raise UsageError(
            f"{'--train' if train else '--further'} is for what --pick takes from a front; give --pick, or run "
            "`secateur compress`"
        )
    if latency_table is not None:
        raise UsageError(
            "--latency-table is for --pick latency_ms=…; a search has both in its recipe, or by --set "
            f"latency_table={latency_table} --set budget.latency_ms=0.5x"
        )
    chosen = on_machine(recipes.read_recipe(recipe, settings or (), allow_code=allow_code), threads, device)
    result = recipes.search_widths(
        chosen,
        out or Path(f"{Path(recipe).stem}-run"),
        force=force,
        command=show.words(),
        progress=show.progress(quiet=quiet),
    )
    _show(result, as_json=as_json)


def _budget(picks: list[str]) -> "Budget":
    from secateur.errors import UsageError
    from secateur.names import unknown_name
    from secateur.recipe import budget_from
    from secateur.recipe.settings import BUDGET_OPTIONS

    amounts: dict[str, str | None] = {}
    for pick in (part for text in picks for part in text.split(",")):
        name, separator, amount = (part.strip() for part in pick.partition("="))
        name = name.replace("-", "_")
        if not separator or not amount:
            raise UsageError(f"--pick {pick!r} is no COST=AMOUNT; write for example --pick macs=0.4")
        if name not in BUDGET_OPTIONS:
            raise UsageError(unknown_name("cost", name, BUDGET_OPTIONS))
        if name in amounts:
            raise UsageError(f"--pick names {name} twice; give each cost once")
        amounts[name] = amount
    return budget_from(amounts)


def _show(result: "WidthSearchResult", *, as_json: bool) -> None:
    from secateur.report import FRONT_FILES, front_facts, front_grid, widths_grid

    path = result.folder / FRONT_FILES["front"]
    if as_json:
        print(path.read_text(encoding="utf-8"), end="", file=show.RESULTS.get())
        return
    if result.was_complete:
        print(f"{result.folder}: this search was complete already; nothing was computed\n")
    facts = [*front_facts(result.search), ("written", str(result.folder / FRONT_FILES["front_table"]))]
    if (result.folder / FRONT_FILES["front_svg"]).exists():
        figures = [str(result.folder / FRONT_FILES[what]) for what in ("front_svg", "widths_svg")]
        facts.append(("figures", " and ".join(figures)))
    else:
        facts.append(("no figure", "matplotlib is missing: pip install 'secateur[report]', then search with --force"))
    show.show(front_grid(result.search), widths_grid(result.search), tuple(facts))
