"""Every public name, error and setting is in the reference; and the reference names nothing that is not there."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import tomllib
from pathlib import Path

import pytest

import pileus
from pileus import errors
from pileus.cli import settings as cli_settings
from pileus.drivers import registry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
VARIABLE = re.compile(r"(?<![A-Z_])PILEUS_[A-Z]+(?:_[A-Z]+)*(?![A-Z_])")
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def rendered(page: str) -> set[str]:
    """The objects that a page renders from their docstrings."""
    return set(DIRECTIVE.findall((REFERENCE / page).read_text()))


def variables_in_source() -> set[str]:
    found = {name for file in (ROOT / "src").rglob("*.py") for name in VARIABLE.findall(file.read_text())}
    return found | {setting.variable for setting in cli_settings.SETTINGS}


def test_tests_run_against_the_installed_package_when_that_is_what_is_tested() -> None:
    if os.environ.get("PILEUS_TEST_INSTALLED") == "1":
        assert "site-packages" in Path(pileus.__file__).parts
    else:
        assert Path(pileus.__file__).is_relative_to(ROOT / "src")


def test_every_error_is_in_the_reference_and_no_other() -> None:
    classes = {
        f"pileus.errors.{name}"
        for name, thing in vars(errors).items()
        if inspect.isclass(thing) and issubclass(thing, errors.PileusError)
    }
    assert rendered("errors.md") == classes


def test_the_tree_of_errors_in_the_reference_is_that_of_the_module() -> None:
    assert errors.__doc__ is not None
    tree = re.search(r"^PileusError\n.*?^└ .*?$", errors.__doc__, re.MULTILINE | re.DOTALL)
    assert tree is not None
    assert tree.group() in (REFERENCE / "errors.md").read_text()


def test_every_public_name_is_in_the_reference() -> None:
    shown = {name.rpartition(".")[2] for name in rendered("api.md") | rendered("errors.md")}
    assert set(pileus.__all__) - {"__version__"} <= shown


@pytest.mark.parametrize("page", ["api.md", "errors.md"])
def test_what_the_reference_renders_exists_and_has_a_docstring(page: str) -> None:
    for path in rendered(page):
        module, _, name = path.rpartition(".")
        assert inspect.getdoc(getattr(importlib.import_module(module), name)), path


@pytest.mark.parametrize("name", sorted(pileus.__all__))
def test_a_public_name_can_be_imported_and_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(pileus, name))


def test_every_variable_of_the_environment_is_in_the_reference_and_no_other() -> None:
    documented = set(VARIABLE.findall((REFERENCE / "settings.md").read_text()))
    assert documented == variables_in_source()


def test_every_key_of_the_configuration_file_is_in_the_reference() -> None:
    rows = re.findall(r"^\| `(PILEUS_\w+)` \| `(\w+)` \|", (REFERENCE / "settings.md").read_text(), re.MULTILINE)
    known = {(setting.variable, setting.key) for setting in cli_settings.SETTINGS}
    assert known <= set(rows)


def test_the_example_of_a_configuration_file_is_accepted(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", (REFERENCE / "settings.md").read_text(), re.DOTALL)
    file = tmp_path / "config.toml"
    file.write_text(example)

    values, drivers = cli_settings.read_config(file, must_exist=True)

    assert values.keys() | {"providers"} == tomllib.loads(example).keys()
    for provider, given in drivers.items():
        registry.load(provider)(given)


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
