"""Pages are true: links and settings exist, made pages are up to date."""

import importlib.util
import pathlib
import re

import pytest

from docs import file_map, methods_page, results_page
from hapo_jax.algo import methods, settings
from hapo_jax.config import defaults, dotted

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BY_NAME = [str(page.relative_to(ROOT)) for page in PAGES]
_CONFIGS = (defaults.default(), defaults.default_sft())


def known(key: str) -> bool:
    """Whether a config has the key, or the key is an option of an open section."""
    if any(dotted.has(config, key) for config in _CONFIGS):
        return True
    return any(key.startswith(f"{section}.") for section in dotted.OPEN)


@pytest.mark.parametrize("page", PAGES, ids=BY_NAME)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in text, page.name


def test_the_readme_fits_on_two_screens():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert "\nmake test " in text and "docs/demo_curves.png" in text


def test_code_that_a_page_shows_of_a_file_is_there():
    """A block behind words that end with the file's name and a colon."""
    shown = [
        (ROOT / file, code)
        for page in PAGES
        for file, code in re.findall(
            r"`((?:hapo_jax|tests)/[\w/]+\.py)`:\n\n```python\n(.*?)```",
            page.read_text(),
            re.S,
        )
    ]
    assert len(shown) >= 2
    for file, code in shown:
        assert code in file.read_text(), file


@pytest.mark.parametrize("page", PAGES, ids=BY_NAME)
def test_settings_on_the_pages_exist(page):
    text = page.read_text()
    keys = set(re.findall(r"--config\.([a-z_0-9.]*[a-z_0-9])", text))
    if page.name != "changes.md":  # which names old ones as well
        keys |= set(re.findall(r"`(algo\.[a-z_.]*[a-z_])", text))
    assert not [key for key in keys if not known(key)]


@pytest.mark.parametrize("page", PAGES, ids=BY_NAME)
def test_modules_and_configs_on_the_pages_exist(page):
    text = page.read_text()
    for module in re.findall(r"python -m ([a-z_0-9.]*[a-z_0-9])", text):
        assert importlib.util.find_spec(module), module
    for file in re.findall(r"\bconfigs/[a-z_0-9/]+\.py", text):
        assert (ROOT / file).is_file(), file


def test_the_page_of_methods_is_made_from_the_code():
    made = methods_page.page()
    assert made == (ROOT / "docs/methods.md").read_text(), (
        "run python docs/methods_page.py > docs/methods.md"
    )
    assert {f"algo.{name}" for name in settings.STAGES} == methods.TABLES.keys()


def test_the_page_of_files_is_made_from_the_files():
    assert file_map.page() == (ROOT / "docs/files.md").read_text(), (
        "run python docs/file_map.py > docs/files.md"
    )


def test_the_tables_of_results_are_those_that_were_made():
    page = results_page.PAGE.read_text()
    assert "<!-- forks.md -->" in page
    assert results_page.fill(page) == page, "run python -m docs.results_page"


def test_how_a_gain_follows_the_share_is_a_line_through_each_seed():
    gains = {0.0: {0: 0.0, 1: 0.1}, 0.25: {0: 0.01, 1: 0.13}, 0.5: {0: 0.02, 1: 0.16}}
    found = results_page.slopes(gains)
    assert found.mean == pytest.approx(0.02) and found.num_seeds == 2
    assert found.low < 0.01 < 0.03 < found.high
    both = results_page.pooled(gains)
    assert both.mean == pytest.approx(0.07) and both.num_seeds == 2
    # What only one of them has counts for none.
    assert results_page.slopes({**gains, 0.5: {1: 0.16}}).num_seeds == 1
