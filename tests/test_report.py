"""The page of a run: whole, offline, escaped, and with the numbers of its map."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.analyses.steerability.confirmation import Confirmation
from steerlens.analyses.steerability.steerability_map import SteerabilityMap
from steerlens.measures.dose_response import DoseResponse
from steerlens.report.page import page
from steerlens.report.rerun import rerun_source
from steerlens.results import Result
from steerlens.sites import Site

LAYERS, EXAMPLES = 4, 12
MULTIPLIERS = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
SITES = tuple(Site(layer) for layer in range(LAYERS))
HOSTILE = "<script>alert('prompt')</script> & <img src=http://evil.example/x.png>"

FIELDS = {
    "experiment": "SteerabilityExperiment",
    "model": "reviews",
    "contrast": "reviews/sentiment",
    "method": "DiffMean()",
    "stream": "resid_post",
    "layers": None,
    "n_fit": 40,
    "seed": 7,
    "device": "cpu",
    "dtype": "float32",
    "questions": None,
    "multipliers": [-1.0, -0.5, 0.0, 0.5, 1.0],
    "unit": "resid_norm",
    "positions": "from_prompt_end",
    "budget": 0.1,
    "nulls": 20,
    "n_choose": 12,
    "n_report": 12,
    "n_neutral": 8,
    "samples": 1,
    "new_tokens": 8,
}


def manifest(**changed: Any) -> dict[str, Any]:
    part = {"name": "sentiment in reviews", "source": "a file", "pairs": 12}
    return {
        "fields": FIELDS,
        "model": {
            "name": "reviews", "revision": None, "fingerprint": "f1f1f1f1", "processing": "raw",
            "bos": True,
        },
        "data": {p: {**part, "hash": f"hash-of-{p}"} for p in ("fit", "choose", "report")},
        "started": "2025-01-02T03:04:05Z",
        "versions": {"python": "3.11.0", "steerlens": "0.1.0", "torch": "2.13.0"},
        "commit": "abcdef123456",
        "platform": "Linux x86_64, 2 threads",
        "device": "cpu",
        **changed,
    }  # fmt: skip


def a_map(effect: float = 3.0, **changed: Any) -> SteerabilityMap:
    """Layer 2 is alive and the others are not; with effect=0 nothing is."""
    g = torch.Generator().manual_seed(0)
    alive = torch.tensor([0.0, 0.02, 1.0, 0.02])[:, None, None]
    noise = 0.05 * torch.randn(LAYERS, 5, EXAMPLES, generator=g) * MULTIPLIERS[:, None]
    base = torch.randn(EXAMPLES, generator=g)
    shape = (20, LAYERS, 5)
    settings: dict[str, Any] = {
        "rows": tuple(map(str, SITES)),
        "sites": SITES,
        "multipliers": MULTIPLIERS,
        "propensities": base + effect * alive * MULTIPLIERS[:, None] + noise,
        "utilities": 2 - 0.1 * MULTIPLIERS.square()[:, None] + torch.zeros(LAYERS, 5, EXAMPLES),
        "kl": 0.2 * MULTIPLIERS.square()[:, None] + torch.zeros(LAYERS, 5, 4),
        "shuffled": 0.2 * torch.randn(shape, generator=g) * MULTIPLIERS.abs(),
        "random": 0.2 * torch.randn(shape, generator=g) * MULTIPLIERS.abs(),
        "budget": 0.1,
        "made_by": {
            "question": "Which layers respond to steering towards sentiment in reviews?",
            "unit": "resid_norm",
            "data_name": "sentiment in reviews",
        },
        **changed,
    }
    made = SteerabilityMap(**settings)
    cell = made.recommend().cell
    if cell is None:
        return made
    gains = torch.linspace(0.4, 2.2, EXAMPLES)
    gains[0] = -0.25
    cost = 0.05 + 0.01 * torch.rand(4, generator=g)
    return made.with_confirmation(Confirmation(cell, gains, 0.1 * gains, cost))


def a_probe(sites: tuple[Site, ...] = SITES) -> ProbeMap:
    g = torch.Generator().manual_seed(1)
    apart = torch.linspace(0, 3, len(sites))[:, None, None] * torch.tensor([1.0, -1.0])
    scores = torch.randn(len(sites), 20, 2, generator=g) + apart
    control = torch.randn(3, len(sites), 20, 2, generator=g)
    return ProbeMap(sites, scores, control, {"data_name": "sentiment in reviews"})


SAMPLES = DoseResponse((HOSTILE,), (-0.5, 0.0, 0.5), ((" awful", " fine", ""),))


def page_of(*results: Result | None, summary: str = "", **changed: Any) -> str:
    """The page of those results that there are."""
    return page(manifest(**changed), [one for one in results if one is not None], summary)


@pytest.fixture(scope="module")
def full() -> str:
    return page_of(a_map(), a_probe(), SAMPLES, summary="the printed summary")


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]


EVERY_SECTION = (
    "answer", "map", "map-dose-and-response", "map-gain-against-cost", "map-every-example",
    "map-probe-against-steering", "map-why-not-other-layers", "map-layer-by-layer", "probe",
    "samples", "data", "rerun", "limits",
)  # fmt: skip
OF_THE_MAP = {name for name in EVERY_SECTION if name.startswith("map")}


def test_a_full_run_has_every_section_and_the_contents_lead_there(full):
    page = _Page(full)
    assert [i for i in page.ids if i in EVERY_SECTION] == list(EVERY_SECTION)
    leads = [str(a["href"]) for tag, a in page.tags if tag == "a"]
    assert leads == [f"#{section}" for section in EVERY_SECTION]


def test_a_full_run_has_every_figure_and_plotly_once_before_them(full):
    drawn = re.findall(r'Plotly\.newPlot\(\s*"figure-([\w-]+)"', full)
    assert drawn == [*EVERY_SECTION[1:6], "probe"]
    assert len(re.findall(r"plotly\.js v\d", full)) == 1
    assert full.index("plotly.js v") < full.index("Plotly.newPlot(")
    assert len(full) < 6_000_000


def test_nothing_is_loaded_from_elsewhere(full):
    for tag, attributes in _Page(full).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        for name in ("src", "srcset", "data", "action", "poster"):
            assert name not in attributes, (tag, attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    style = re.findall(r"<style>(.*?)</style>", full, re.S)[0]
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for t, a in _Page(full).tags if "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "http" not in policy and "*" not in policy


def test_the_numbers_of_the_map_are_stated(full):
    made, probe, text = a_map(), a_probe(), _Page(full).text
    held = made.confirmation
    assert held is not None
    assert str(held.gain) in text
    assert f"change by +{held.gain.value:.3g} nats" in text
    assert str(held.cost) + " nats per token" in text
    assert f"{100 / EXAMPLES:.1f}% [" in text  # one of the examples goes the wrong way
    assert f"p = {made.label_null.p_value:.3g}" in text
    assert f"p = {made.direction_null.p_value:.3g}" in text
    assert "Steer at layer 2 with multiplier +0.5" in text
    assert f"AUROC {float(probe.auroc.max()):.3g}" in text
    for i in range(LAYERS):
        assert f"{float(made.slopes.mean(-1)[i]):.3g}".replace("-", "−") in text
        assert f"{100 * float(made.anti_steerable[i]):.1f}".removesuffix(".0") + "%" in text
    for _, why in made.recommend().reasons:
        assert why in text


def test_what_is_needed_to_run_it_again_is_there(full):
    text = _Page(full).text
    for needed in (
        "f1f1f1f1", "abcdef123456", "raw", "hash-of-fit", "hash-of-choose", "hash-of-report",
        "torch 2.13.0", "the printed summary", "seed=7", "multipliers=(-1.0, -0.5, 0.0, 0.5, 1.0)",
        "steerlens run rerun.py",
    ):  # fmt: skip
        assert needed in text, needed


def test_the_rerun_file_makes_the_same_experiment():
    from steerlens.experiment import SteerabilityExperiment

    asked = SteerabilityExperiment(layers=(1, 3), multipliers=(-2.0, 0.0, 2.0), seed=5)
    found: dict[str, Any] = {}
    exec(rerun_source(asked.fields(), asked.defined()), found)
    assert found["experiment"] == asked
    assert found["experiment"].digest == asked.digest


def test_a_foreign_method_is_not_imported_from_steerlens():
    fields = {**FIELDS, "method": "MedianDifference()"}
    source = rerun_source(fields, {"method": "medians:MedianDifference"})
    assert "steerlens.directions.methods" not in source
    assert "# MedianDifference is not part of steerlens" in source
    assert (
        "from medians import MedianDifference" in source and "method=MedianDifference()" in source
    )


def test_text_from_prompts_and_names_is_escaped_everywhere():
    made = a_map(made_by={"question": HOSTILE, "data_name": HOSTILE, "unit": "resid_norm"})
    text = page_of(
        made, a_probe(), SAMPLES, summary=HOSTILE,
        model={**manifest()["model"], "name": HOSTILE},
        fields={**FIELDS, "contrast": HOSTILE},
        data={"fit": {"name": HOSTILE, "source": HOSTILE, "hash": "h", "pairs": 3}},
    )  # fmt: skip
    assert "<script>alert" not in text and "<img src=http" not in text
    assert HOSTILE in _Page(text).text
    assert not [t for t, a in _Page(text).tags if t == "img" or "src" in a]


def test_the_unsteered_text_is_highlighted_and_an_empty_one_is_named(full):
    unsteered = re.findall(r'<div class="unsteered">.*?</div>', full, re.S)
    assert len(unsteered) == 1 and "fine" in unsteered[0] and "multiplier 0" in unsteered[0]
    assert "multiplier +0.5, the chosen one" in full
    assert "(no text)" in full


@pytest.mark.parametrize(
    ("made", "probe", "samples", "missing"),
    [
        (a_map(), None, SAMPLES, {"probe", "map-probe-against-steering"}),
        (a_map(), a_probe(SITES[:2]), None, {"samples", "map-probe-against-steering"}),
        (None, a_probe(), None, {*OF_THE_MAP, "samples"}),
    ],
    ids=["no probe", "no samples and a probe of other sites", "no map"],
)
def test_a_page_without_a_part_has_the_other_sections(made, probe, samples, missing):
    text = page_of(made, probe, samples)
    page = _Page(text)
    there = set(EVERY_SECTION) - missing | ({"probe-layer-by-layer"} if made is None else set())
    assert {str(a["id"]) for tag, a in page.tags if tag == "section"} == there
    assert {str(a["href"])[1:] for t, a in page.tags if t == "a"} == there
    assert len(re.findall(r"plotly\.js v\d", text)) == 1


def test_a_map_of_nothing_says_so():
    made = a_map(effect=0.0)
    assert made.recommend().cell is None
    text = _Page(page_of(made)).text
    assert "Nothing is above the null." in text
    assert "Steer at" not in text
    assert "no cell was chosen to steer with" in text


def test_rows_are_shown_for_what_they_move_where_nothing_is_gained():
    held_back = a_map(budget=0.0)
    assert not bool(held_back.row_scores.any()) and held_back.best_rows(1) == [2]
    text = _Page(page_of(held_back)).text
    assert "at the 4 layers that move most, since nothing is gained within the budget" in text


def slopes_by_answer(by_letter: float, by_example: float) -> SteerabilityMap:
    """Half of the examples have the answer A, the others B; every second one is negated."""
    letters = tuple("AABB"[i % 4] for i in range(EXAMPLES))
    sign = torch.tensor([1.0 if letter == "A" else -1.0 for letter in letters])
    turned = torch.tensor([1.0 if i % 2 else -1.0 for i in range(EXAMPLES)])
    alive = torch.tensor([0.0, 0.02, 1.0, 0.02])[:, None, None]
    noise = 0.05 * torch.randn(EXAMPLES, generator=torch.Generator().manual_seed(2))
    slopes = 0.5 + by_letter * sign + by_example * turned + noise
    return a_map(propensities=alive * MULTIPLIERS[:, None] * slopes, answers=letters)


def test_slopes_that_follow_the_letter_of_the_answer_are_pointed_out():
    text = _Page(page_of(slopes_by_answer(3.0, 0.0))).text
    assert (
        text.count("The slopes follow the letter of the answer.") == 2
    )  # the answer and the figure
    assert "+3.49 where it is A and −2.49 where it is B" in text and "balanced_letters()" in text
    assert "two clouds" not in text
    assert "follow the letter" not in _Page(page_of(slopes_by_answer(0.3, 3.0))).text
    words = a_map(propensities=slopes_by_answer(3.0, 0.0).propensities)
    assert "follow the letter" not in _Page(page_of(words)).text  # answers that are no letters


def test_two_clouds_of_slopes_are_pointed_out():
    text = _Page(page_of(slopes_by_answer(0.0, 3.0))).text
    assert "The examples fall into two clouds." in text and "around +3.48" in text
    assert "two clouds" not in _Page(page_of(slopes_by_answer(0.0, 0.0))).text
    assert "two clouds" not in _Page(page_of(a_map())).text


def test_an_effect_over_the_budget_is_not_called_nothing():
    made = a_map(budget=0.001)
    text = _Page(page_of(made)).text
    assert "No layer responds within the cost budget of 0.001 nats" in text
    assert "Layer 2 responds by more than chance, at a higher cost" in text


def test_a_gain_that_was_not_held_out_is_called_optimistic():
    made = a_map()
    alone = SteerabilityMap(
        **{
            name: getattr(made, name)
            for name in (
                "rows", "sites", "multipliers", "propensities", "utilities", "kl", "shuffled", "random",
                "budget", "made_by",
            )
        }
    )  # fmt: skip
    text = _Page(page_of(alone)).text
    assert "so its gain is too large on average" in text
    assert "held-out examples" not in text


def test_a_gain_that_is_not_confirmed_is_said_not_to_be():
    made = a_map()
    assert made.confirmation is not None
    flat = torch.linspace(-1, 1, EXAMPLES)
    cell, kl = made.confirmation.cell, made.confirmation.kl
    made = made.with_confirmation(Confirmation(cell, flat, flat, kl))
    text = _Page(page_of(made)).text
    assert (
        "The best cell is layer 2 with multiplier +0.5 , but held-out examples do not confirm it"
        in text
    )


def test_the_same_run_gives_the_same_page(full):
    assert page_of(a_map(), a_probe(), SAMPLES, summary="the printed summary") == full


def test_a_run_without_results_is_refused():
    with pytest.raises(ValueError, match="no results, so there is nothing to report"):
        page_of(None)
