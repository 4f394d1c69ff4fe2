"""``secateur recipe``: the list, one recipe, the schema."""

import json
from pathlib import Path

import pytest
from cli_command import forked, refused, run

from secateur.recipe import recipe_names, recipe_schema, recipe_text


def test_the_list_names_all_and_says_what_they_are() -> None:
    ran = run("recipe", "--list")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line.split()) > 2 for line in lines)


def test_the_list_as_json() -> None:
    entries = json.loads(run("recipe", "--list", "--json").out)
    assert [entry["name"] for entry in entries] == recipe_names()
    assert all(set(entry) == {"name", "title"} for entry in entries)


def test_a_recipe_is_printed_as_it_is_to_copy_and_change(tmp_path: Path) -> None:
    ran = run("recipe", "l1-vgg16-a")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == recipe_text("l1-vgg16-a")
    copy = tmp_path / "mine.yaml"
    copy.write_text(ran.out, encoding="utf-8")
    assert run("recipe", copy).out == ran.out
    assert run("compress", copy, "--dry-run").out == run("compress", "l1-vgg16-a", "--dry-run").out


def test_the_schema_is_json() -> None:
    ran = run("recipe", "--schema")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == recipe_schema()


def test_an_unknown_recipe_names_the_nearest(tmp_path: Path) -> None:
    refused(run("recipe", "l1-resnet57-a"), "unknown recipe 'l1-resnet57-a'", "did you mean 'l1-resnet56-a'?")
    refused(run("recipe", tmp_path / "absent.yaml"), "there is no file", "absent.yaml")


@pytest.mark.parametrize(
    "words",
    [(), ("--json",), ("--list", "--schema"), ("l1-vgg16-a", "--list"), ("l1-vgg16-a", "--schema")],
)
def test_one_thing_at_a_time(words: tuple[str, ...]) -> None:
    refused(run("recipe", *words), "say one of: a recipe to print, --list, or --schema")


def test_a_recipe_is_no_json() -> None:
    refused(run("recipe", "l1-vgg16-a", "--json"), "leave out --json")


def test_it_runs_as_a_process_in_any_folder(tmp_path: Path) -> None:
    ran = forked("recipe", "l1-resnet56-a", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert ran.out == recipe_text("l1-resnet56-a")
