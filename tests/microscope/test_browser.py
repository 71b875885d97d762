"""The report's page in a real browser: what it shows, and how it answers."""

import re

import numpy as np
import pytest

from hapo_jax.microscope import block, report, runs
from tests.microscope import browser as browser_lib
from tests.microscope import made
from tests.microscope.browser import token

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser_lib.missing()), reason=browser_lib.missing()),
]


TOKENS = "page=group&run=0&step=4&group=0"


def selected(page):
    """(completion, token) of the hash."""
    found = dict(re.findall(r"(\w+)=(\d+)", page.url))
    if "token" not in found:
        return None
    return int(found["completion"]), int(found["token"])


def settled(page, pattern):
    """Waits until the address has something."""
    page.wait_for_url(re.compile(pattern))


def test_it_opens_with_findings_figures_and_curves(path, open_page):
    page = open_page(path)
    assert "no signal" in page.locator(".findings").inner_text()
    assert runs.MEANS["no_signal"] in page.locator(".findings").inner_text()
    table = page.get_by_role("region", name="evaluations").inner_text()
    assert "avg@2" in table and "75.0 [" in table
    page.wait_for_selector(".chart canvas")
    titles = page.locator("figcaption").all_inner_texts()
    assert "mean reward of sampled completions" in titles
    assert "held-out avg@2, 95 % interval" in titles
    page.locator(".findings + section button.primary").click()
    page.wait_for_selector(".strip .token")


def test_the_browser_reads_the_columns_that_were_written(path, rows, open_page):
    page = open_page(path, TOKENS)
    found = block.read(block.of_records(rows[4]))
    names = [name for name in block._ORDER if name in found]
    given = page.evaluate(
        """async (names) => {
          const { block } = await import("microscope/data");
          const step = await block(0, 4);
          return names.map((name) => Array.from(step.column(name), String));
        }""",
        [*names, "logprobs"],
    )
    for name, values in zip([*names, "logprobs"], given):
        text = [v.replace("Infinity", "inf") for v in values]
        np.testing.assert_allclose(
            np.array(text, np.float64), found[name], rtol=1e-3, atol=1e-7, err_msg=name
        )


def test_half_precision_numbers_are_numpys(path, open_page):
    page = open_page(path)
    rng = np.random.default_rng(0)
    values = rng.normal(size=3000) * 10 ** rng.uniform(-9, 6, 3000)
    values = [*values, 0, 65504, 65519.99, 65520, 2**-24, 2**-25, 2**-14 - 2**-26, 1e-9]
    with np.errstate(over="ignore"):
        expected = np.array(values).astype(np.float16).view(np.uint16).astype(int)
    expected = np.where(expected >> 15, 0x8000 - (expected & 0x7FFF), 0x8000 + expected)
    given = page.evaluate(
        """async (values) => {
          const { half } = await import("microscope/columns");
          return values.map(half);
        }""",
        [float(v) for v in values],
    )
    np.testing.assert_array_equal(given, expected)


def test_colours_follow_the_quantity(path, rows, open_page):
    page = open_page(path, f"{TOKENS}&colour=base_advantages")
    wrong, right = (token(page, i).evaluate("e => e.style.background") for i in (0, 62))
    assert wrong != right

    def blue_less_red(colour):
        red, _, blue = map(int, re.findall(r"\d+", colour))
        return blue - red

    assert blue_less_red(wrong) > 0 > blue_less_red(right)  # advantages -0.75, 1.25
    page.get_by_label("colour by").select_option("entropy")
    settled(page, "group")
    assert token(page, 62).evaluate("e => e.style.background") != right
    ticks = page.locator(".ticks span").all_inner_texts()
    assert ticks[0] == "0" and ticks[-1].endswith(" nats")


def test_outlines_say_what_was_clipped_masked_and_truncated(path, rows, open_page):
    page = open_page(path, TOKENS, height=2000)
    starts = np.cumsum([0] + [len(row["tokens"]) for row in rows[4]])
    for name, kind in (("clipped_low", "low"), ("clipped_high", "high")):
        fired = np.concatenate([row[name] for row in rows[4][:4]])
        assert fired.any()
        drawn = page.locator(f".strip .token.{kind}").count()
        assert drawn == fired.sum()
    assert page.locator(".strip .token.masked").count() == 3
    cut = page.locator(".strip .token.cut")
    assert cut.count() == 1 and cut.get_attribute("id") == f"token-{starts[2] - 1}"


def test_hovering_shows_all_numbers_and_the_place_in_the_formulas(
    path, rows, open_page
):
    page = open_page(path, TOKENS)
    row = rows[4][0]
    i = int(np.argmax(row["entropy_score"]))
    token(page, i).hover()
    said = page.locator("aside.details").inner_text()
    assert f"token {i + 1} of 60" in said and "uncertain" in said
    assert "1 + 1.00" not in said or "grows" in said
    for label in ("temperature", "ratio", "loss", "importance weight", "new log-prob"):
        assert label in said
    assert f"{row['entropy'][i]:.3g}"[:4] in said
    assert re.search(r"r = [\d.]+ (in|out)side Z = \(0\.\d+, 1\.\d+\)", said)
    confident = int(np.argmin(row["entropy_score"]))
    token(page, confident).hover()
    assert "confident" in page.locator("aside.details").inner_text()


def test_the_keyboard_reaches_everything(path, open_page):
    page = open_page(path, TOKENS)
    press = page.keyboard.press
    press("ArrowRight")
    assert selected(page) == (0, 0)
    press("ArrowRight")
    assert selected(page) == (0, 1)
    assert page.locator(".token.selected").get_attribute("id") == "token-1"
    press("ArrowLeft")
    press("ArrowLeft")  # the first stays
    assert selected(page) == (0, 0)
    before = page.locator(".token.selected").bounding_box()
    press("ArrowDown")
    after = page.locator(".token.selected").bounding_box()
    assert after["y"] > before["y"]
    press("j")
    assert selected(page) == (1, 0)
    press("k")
    assert selected(page) == (0, 0)
    press("c")
    settled(page, "colour=old_entropy")
    press("C")
    press("g")
    settled(page, "group=4")
    press("G")
    settled(page, "group=0")
    press("S")
    settled(page, "step=2")
    press("s")
    settled(page, "step=4")
    press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    press("Escape")
    press("?")
    assert page.locator("dialog.help").is_visible()
    press("Escape")
    press("ArrowRight")
    press("Escape")
    assert selected(page) is None
    press("1")
    settled(page, "page=overview")


def test_the_screen_reader_hears_the_selected_token(path, rows, open_page):
    page = open_page(path, TOKENS)
    page.locator(".strip").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".strip").get_attribute("aria-activedescendant") == "token-0"
    assert "entropy" in page.locator("#live").inner_text()


def heads(page):
    return page.locator(".strip-head strong").all_inner_texts()


def test_filters_leave_what_passes(path, rows, open_page):
    page = open_page(path, TOKENS, height=2000)
    assert heads(page) == [f"completion {n}" for n in (1, 2, 3, 4)]
    page.get_by_label("answer").select_option("right")
    assert sorted(heads(page)) == ["completion 2", "completion 4"]
    page.get_by_label("truncated").select_option("yes")
    assert heads(page) == ["completion 2"]
    page.get_by_role("button", name="clear filters").click()
    page.get_by_label("least length in tokens").fill("70")
    page.keyboard.press("Enter")
    assert sorted(heads(page)) == ["completion 3", "completion 4"]
    page.get_by_role("button", name="clear filters").click()
    page.get_by_label("answer").select_option("wrong")
    page.get_by_label("truncated").select_option("yes")
    assert heads(page) == [] and page.locator(".empty-note").is_visible()
    page.get_by_role("button", name="clear filters").click()
    page.get_by_label("tokens", exact=True).select_option("uncertain")
    uncertain = sum(int((row["entropy_score"] > 0).sum()) for row in rows[4][:4])
    drawn = page.locator(".strip .token").count()
    assert drawn - page.locator(".strip .token.dim").count() == uncertain


def test_search_finds_text_across_tokens(path, rows, open_page):
    row = rows[4][2]
    at = 20
    wanted = row["token_strings"][at][-1] + row["token_strings"][at + 1]
    if "\n" in wanted:
        at += 2
        wanted = row["token_strings"][at][-1] + row["token_strings"][at + 1]
    page = open_page(path, TOKENS)
    page.locator("#search").fill(wanted)
    page.keyboard.press("Enter")
    settled(page, "token=")
    texts = ["".join(r["token_strings"]) for r in rows[4][:4]]
    count = sum(t.lower().count(wanted.lower()) for t in texts)
    assert page.locator(".counter").inner_text() == f"{count} found"
    first = selected(page)
    page.locator(".strip").focus()
    page.keyboard.press("n")
    assert selected(page) != first or count == 1
    assert page.locator(".token.match").count() >= 2


def test_extreme_tokens_lead_to_their_place(path, rows, open_page):
    page = open_page(path, "page=extreme&step=4&by=ratio&end=largest")
    ratios = np.concatenate([row["ratio"] for row in rows[4]])
    i = int(np.argmax(ratios))
    first = page.locator("tbody tr").first
    assert f"{ratios[i]:.3g}"[:4] in first.inner_text()
    first.get_by_role("button").click()
    settled(page, "page=group")
    page.wait_for_selector(".token.selected")
    assert page.locator(".token.selected").get_attribute("id") == f"token-{i}"
    assert page.locator(".token.selected").is_visible()
    page.go_back()
    page.wait_for_selector("tbody tr")


def test_dual_entropy_tokens_lead_to_both_sides(path, rows, open_page):
    page = open_page(path, "page=dual&step=4")
    page.wait_for_selector("tbody tr")
    strings = [s for row in rows[4] for s in row["token_strings"]]
    score = np.concatenate([row["entropy_score"] for row in rows[4]])
    counts = {}
    for text, h in zip(strings, score):
        counts.setdefault(text, [0, 0])[int(h > 0)] += 1
    most = max(min(c) for c in counts.values())
    cells = page.locator("tbody tr").first.locator("td").all_inner_texts()
    total = int(cells[1].replace(",", ""))
    assert total in {sum(c) for c in counts.values() if min(c) == most}
    for side, column in (("confident", 4), ("uncertain", 5)):
        cell = page.locator("tbody tr").first.locator("td").nth(column)
        cell.get_by_role("button").first.click()
        page.wait_for_selector(".token.selected")
        i = int(page.locator(".token.selected").get_attribute("id").split("-")[1])
        assert (score[i] > 0) == (side == "uncertain")
        page.go_back()
        page.wait_for_selector(".view.dual tbody tr")


def test_two_runs_are_compared(both, open_page):
    page = open_page(both, "page=compare&run=0&step=4&colour=clip_low")
    assert page.get_by_label("B", exact=True).input_value() == "1.4"
    page.wait_for_selector(".chart canvas")
    assert page.locator(".pair .strip").count() == 2
    assert page.locator(".pair .strip .token").count() > 100
    moments = page.get_by_role("region", name="moments").inner_text()
    assert "median" in moments and "540" in moments
    page.locator("#token-b-3").hover()
    assert "token 4 of" in page.locator(".pair .details").nth(1).inner_text()
    row = page.get_by_role("region", name="tokens whose").locator("tbody tr").first
    row.get_by_role("button").first.click()
    page.wait_for_selector(".token.selected")
    assert "page=group" in page.url


def test_two_steps_are_compared(path, open_page):
    page = open_page(path, "page=compare&run=0&step=4")
    assert page.get_by_label("B", exact=True).input_value() == "0.2"
    page.get_by_label("problem").select_option("problem 1")
    settled(page, "problem=problem")
    assert page.locator(".pair .strip").count() == 2
    overview = open_page(path, "")
    assert "where the runs differ" not in overview.locator("main").inner_text()


def test_steps_that_share_a_problem_are_named(tmp_path, rows, open_page):
    hapo = made.run(tmp_path / "hapo", {2: made.groups(1), 4: rows[4]})
    other = [made.record(40, problem="problem 1"), made.record(30, problem="q")]
    dapo = made.run(tmp_path / "dapo", {2: other, 4: [made.record(40, problem="r")]})
    path = report.microscope(hapo, dapo).save(tmp_path / "report.html")
    page = open_page(path, "page=compare&run=0&step=2&with=1.4")
    assert "No problem is in both" in page.locator("main").inner_text()
    page.get_by_role("button", name="4 and 2 (1)").click()
    page.wait_for_selector(".pair .token")
    assert "step=4" in page.url and "with=1.2" in page.url


def test_settings_that_differ_are_named(both, open_page):
    page = open_page(both)
    table = page.get_by_role("region", name="settings that differ").inner_text()
    assert "method" in table and '"dapo"' in table and "seed" not in table


def test_a_place_can_be_sent(path, open_page):
    page = open_page(path, TOKENS)
    page.get_by_label("colour by").select_option("ratio")
    page.get_by_label("answer").select_option("right")
    page.keyboard.press("Escape")
    token(page, 64).click()
    settled(page, "completion=1&token=4")
    hash_ = page.url.partition("#")[2]
    other = open_page(path, hash_)
    assert other.url == page.url
    assert other.locator(".token.selected").get_attribute("id") == "token-64"
    assert other.get_by_label("colour by").input_value() == "ratio"
    assert other.get_by_label("answer").input_value() == "right"
    page.go_back()  # the token replaced its place in the history, the filter did not
    assert page.get_by_label("answer").input_value() == ""


@pytest.mark.parametrize(
    "hash_", ["page=x", "page=group&run=9&step=z&group=77&token=1"]
)
def test_a_broken_address_shows_a_page(path, open_page, hash_):
    assert open_page(path, hash_).locator("main h2, .strip").first.is_visible()
