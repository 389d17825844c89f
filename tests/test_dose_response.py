"""Texts at several strengths of one intervention of any kind; they save and describe themselves."""

from dataclasses import replace

import pytest

from steerlens.interventions import Ablate, Add, Together
from steerlens.measures.dose_response import DoseResponse, dose_response
from steerlens.measures.generation import generate
from steerlens.report.section import Paragraph, Texts
from steerlens.sites import Positions, Site
from tests.strangers import LouderHeads, Silent, low_rank

PROMPTS = ["the cat sat on the bed and ran", "you", "I think the good soup was"]


@pytest.fixture
def steering(random_direction):
    """Edits of two streams."""

    def build(positions):
        direction = random_direction(Site(1), 32)
        last = replace(direction, site=Site(2))
        return Together((Add(direction, positions), Ablate(last, positions)))

    return build


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_dose_response_is_each_strength_by_itself(tiny, steering, temperature):
    intervention, multipliers = steering(Positions.from_prompt_end()), (-2.0, 0.0, 2.0)
    options = {"max_new_tokens": 5, "temperature": temperature}
    table = dose_response(tiny, intervention, PROMPTS, multipliers, **options)
    for j, m in enumerate(multipliers):
        with intervention.attach(tiny, m):
            alone = generate(tiny, PROMPTS, **options)
        assert [row[j] for row in table.texts] == alone
    assert [row[1] for row in table.texts] == generate(tiny, PROMPTS, **options)
    assert any(row[0] != row[2] for row in table.texts)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_strangers_intervention_has_a_batch_for_each_strength(gpt2, temperature):
    """Whether it takes a multiplier per row or not: the texts are those of each by itself."""
    for arm in (low_rank(gpt2, 1, share=1.0), LouderHeads(0), Silent(LouderHeads(0))):
        options = {"max_new_tokens": 6, "temperature": temperature, "seed": 2}
        table = dose_response(gpt2, arm, PROMPTS, (-2.0, 0.0, 2.0), **options)
        for j, m in enumerate(table.multipliers):
            with arm.attach(gpt2, m):
                assert [row[j] for row in table.texts] == generate(gpt2, PROMPTS, **options)
        assert any(row[0] != row[2] for row in table.texts)
    with pytest.raises(ValueError, match="Make it for this model"):
        dose_response(gpt2, replace(low_rank(gpt2, 1), layer=9), PROMPTS, [1.0])


def test_a_dose_response_shows_text_and_never_runs_it():
    table = DoseResponse(("<script>",), (1.0,), (("<b>x</b>",),))
    assert "<script>" not in table._repr_html_()
    assert "&lt;b&gt;x&lt;/b&gt;" in table._repr_html_()
    assert "+1.00  <b>x</b>" in str(table)


def test_texts_are_a_result_like_any_other(gpt2, random_direction, tmp_path):
    found = dose_response(gpt2, random_direction(Site(1), 32), PROMPTS, (0.0, 2), max_new_tokens=3)
    found.save(tmp_path)
    read = DoseResponse.load(tmp_path)
    assert vars(read) == vars(found)
    table = found.to_frame()
    assert list(table.columns) == ["prompt", "multiplier", "text"]
    assert table.text.tolist() == [text for row in found.texts for text in row]
    assert table.prompt.tolist()[:3] == [PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    assert (tmp_path / "samples.csv").read_text().startswith("prompt,multiplier,text\n")
    said, first, *others = found.section({}).blocks
    assert isinstance(said, Paragraph) and "Add at L1 resid_post" in said.text
    assert isinstance(first, Texts) and len(others) == 2
    assert [label for label, _ in first.texts] == ["multiplier 0, unsteered", "multiplier +2"]
    assert (first.label, first.marked) == ("prompt 1", 0)
    assert found.made_by["fingerprint"] == gpt2.fingerprint
