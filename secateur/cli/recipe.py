"""``secateur recipe``."""

from typing import Annotated

import typer

from secateur.cli import show
from secateur.cli.options import option


def recipe(
    name: Annotated[str | None, typer.Argument(metavar="RECIPE", help="print this recipe, to copy and change")] = None,
    listing: Annotated[bool, option(None, "--list", help="list the recipes that come with Secateur")] = False,
    schema: Annotated[bool, option(None, "--schema", help="print the JSON schema of recipes, for editors")] = False,
    as_json: Annotated[bool, option(None, "--json", help="print the list as JSON")] = False,
) -> None:
    """Show what recipes there are, print one, or print the schema.

    Editors that know YAML schemas complete and check a recipe that begins with the line `# yaml-language-server:
    $schema=recipe.schema.json`; write that file with `secateur recipe --schema > recipe.schema.json`.
    """
    from secateur import recipe as recipes
    from secateur.errors import UsageError

    if (name is not None) + listing + schema != 1:
        raise UsageError("say one of: a recipe to print, --list, or --schema")
    if as_json and name is not None:
        raise UsageError(f"--json is of --list, and a recipe is YAML; leave out --json, or the recipe {name}")
    if schema:
        show.show_json(recipes.recipe_schema())
    elif name is not None:
        print(recipes.recipe_text(name), end="")
    elif as_json:
        show.show_json([vars(entry) for entry in recipes.listed_recipes()])
    else:
        show.show(tuple((entry.name, entry.title) for entry in recipes.listed_recipes()))
