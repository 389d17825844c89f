"""What heads and MLPs carry of a gain, against plain hooks and what was planted."""

from __future__ import annotations

import pytest
import torch

from steerlens.analyses.attribution.attribute_gain import attribute_gain
from steerlens.analyses.attribution.gain_attribution import Component, GainAttribution
from steerlens.arguments import ArgumentError
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction
from steerlens.directions.methods import DiffMean
from steerlens.interventions import Add
from steerlens.interventions.conditional import Condition, When
from steerlens.interventions.prompt import Prompt
from steerlens.measures.reading import activations
from steerlens.models.forward import Forward
from steerlens.models.model import Model, SteeringError
from steerlens.sites import Positions, Site
from tests.strangers import low_rank

CHOOSE = ContrastSet("choose", (
    ContrastPair("I think that the soup was", " good", " bad"),
    ContrastPair("a dog ran", " the bed", " the dog"),
))  # fmt: skip
REPORT = ContrastSet("report", (
    ContrastPair("the cat sat on", " the bed", " the dog"),
    ContrastPair("he said that the soup was", " good", " bad"),
))  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer")


def step(model, layer, size=3.0, stream="resid_post"):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    direction = Direction(vector, Site(layer, stream), resid_norm=size, processing="raw")
    return Add(direction, Positions.from_prompt_end())


@torch.no_grad()
def odds_by_hand(model, pair, edit, multiplier, held):
    """Log-odds by passes of one unpadded row per answer, with some outputs held."""
    total = []
    for answer in (pair.positive, pair.negative):
        prompt, ids = model.split(pair.prompt, answer)
        batch = model.answered([pair.prompt], [answer])
        kept = {}

        def keep(x, hook, kept=kept):
            kept[hook.name] = x.clone()

        def hold(x, hook, kept=kept):
            x, before = x.clone(), kept[hook.name]
            for part in held:
                if part.site.hook == hook.name and part.head is None:
                    x = before
                elif part.site.hook == hook.name:
                    d = model.cfg.d_head
                    flat, old = x.flatten(2), before.flatten(2)
                    own = slice(part.head * d, (part.head + 1) * d)
                    flat[..., own] = old[..., own]
                    x = flat.view_as(x)
            return x

        names = {part.site.hook for part in held}
        with model.wrapped.hooks(fwd_hooks=[(name, keep) for name in names]):
            model.wrapped(batch.tokens)
        chosen = edit.positions.mask(batch)[..., None]

        def steer(x, hook, chosen=chosen):
            return torch.where(chosen, edit(x, multiplier), x)

        hooks = [(edit.site.hook, steer), *((name, hold) for name in names)]
        with model.wrapped.hooks(fwd_hooks=hooks):
            logits = model.wrapped(batch.tokens)
        at = torch.arange(len(ids)) + len(prompt) - 1
        total.append(logits.log_softmax(-1)[0, at, torch.tensor(ids)].sum())
    return float(total[0] - total[1])


def same_as_by_hand(model, edit=None, first=1):
    edit, m = edit or step(model, 0), 1.5
    found = attribute_gain(model, CHOOSE, REPORT, edit, m, exact=3, progress=False)
    later = range(first, model.n_layers)
    every = [Component(n, h) for n in later for h in [*range(model.cfg.n_heads), None]]
    assert found.components == tuple(every)
    parts = [found.held(n) for n in range(3)]
    for k, pair in enumerate(REPORT):
        steered = odds_by_hand(model, pair, edit, m, [])
        gain = steered - odds_by_hand(model, pair, edit, 0.0, [])
        assert float(found.gain[k]) == pytest.approx(gain, abs=2e-4)
        for n, part in enumerate(parts):
            lost = steered - odds_by_hand(model, pair, edit, m, [part])
            assert float(found.lost[n, k]) == pytest.approx(lost, abs=2e-4)
        lost = steered - odds_by_hand(model, pair, edit, m, parts)
        assert float(found.lost_together[k]) == pytest.approx(lost, abs=2e-4)


def test_exact_effects_are_those_of_plain_hooks(tiny):
    same_as_by_hand(tiny)


@pytest.mark.parametrize(
    ("layer", "stream", "first"), [(1, "resid_pre", 1), (0, "resid_mid", 0), (0, "mlp_out", 0)]
)
def test_exact_effects_of_edits_between_and_inside_blocks(gpt2, layer, stream, first):
    """Passes from the held block on leave nothing of the edit out."""
    edit = step(gpt2, layer, stream=stream)
    same_as_by_hand(gpt2, edit, first)


def test_a_held_pass_starts_at_the_first_held_block(gpt2, monkeypatch):
    """One pass with all components held, and one with each: blocks below are not run again."""
    started = []
    last = Forward.last

    def counted(forward, batch, entering=None, cut=None):
        started.append(0 if entering is None else entering[0])
        return last(forward, batch, entering, cut)

    monkeypatch.setattr(Forward, "last", counted)
    found = attribute_gain(gpt2, CHOOSE, REPORT, step(gpt2, 0), exact=3, progress=False)
    layers = [found.held(n).layer for n in range(3)]
    assert started[-4:] == [min(layers), *layers] and min(layers) >= 1
    started.clear()
    attribute_gain(gpt2, CHOOSE, REPORT, low_rank(gpt2, 1), exact=3, progress=False)
    assert set(started) == {0}  # weights stay changed in all blocks


def test_a_condition_is_read_before_anything_is_held(gpt2):
    """Its own pass is over prompts alone, of other width than the answers."""
    edit = step(gpt2, 1, stream="resid_pre")
    always = When(Condition(edit.direction, -1e9, similarity="projection"), edit)
    report = ContrastSet("report", (
        ContrastPair("the cat sat on", " the bed", " the dog"),
        ContrastPair("you like", " the good soup", " a bad soup"),
    ))  # fmt: skip
    one, other = (
        attribute_gain(gpt2, CHOOSE, report, e, exact=3, progress=False) for e in (always, edit)
    )
    torch.testing.assert_close(one.lost, other.lost, atol=1e-5, rtol=1e-4)
    assert float(other.lost.abs().max()) > 1e-2


def test_a_bridge_whose_heads_are_not_trusted_is_refused(tiny_bridge_model):
    with pytest.raises(ValueError, match="is not checked. Use a HookedTransformer"):
        attribute_gain(
            tiny_bridge_model, CHOOSE, REPORT, step(tiny_bridge_model, 0), progress=False
        )


def test_the_first_order_is_exact_for_a_small_step(gpt2):
    found = attribute_gain(gpt2, CHOOSE, REPORT, step(gpt2, 0), 0.01, exact=50, progress=False)
    swapped = attribute_gain(gpt2, REPORT, CHOOSE, step(gpt2, 0), 0.01, exact=50, progress=False)
    first = swapped.first_order.mean(-1)[list(found.exact)]
    lost = found.lost.mean(-1)
    assert float(lost.abs().max()) > 1e-4
    torch.testing.assert_close(lost, first, rtol=0.02, atol=2e-5)


def test_what_reads_a_planted_direction_carries_its_gain(planted, planted_data):
    contexts, choose, report = planted_data
    model = Model(planted.model)
    read = activations(model, contexts, [Site(1)], progress=False)
    edit = Add(read.direction(Site(1), DiffMean()))
    found = attribute_gain(model, choose, report, edit, 1.0, exact=4, progress=False)
    assert found.share().value > 0.9
    assert {found.held(found._ranked()[0]).layer} == {3}


def test_a_change_of_weights_is_attributed_from_its_own_block_on(gpt2):
    found = attribute_gain(gpt2, CHOOSE, REPORT, low_rank(gpt2, 1), exact=2, progress=False)
    assert {part.layer for part in found.components} == {1, 2}
    assert bool(found.mediated.isnan().all())
    assert found.made_by["multiplier"] == 1.0 and "mediated" not in found.summary()


def test_it_is_read_back_drawn_and_in_a_frame(gpt2, tmp_path):
    found = attribute_gain(gpt2, CHOOSE, REPORT, step(gpt2, 0), exact=3, progress=False)
    found.save(tmp_path / "attribution")
    again = GainAttribution.load(tmp_path / "attribution")
    assert again.summary() == found.summary() and again.components == found.components
    frame = found.to_frame()
    assert {"L1 MLP", "L1 head 0"} <= set(frame["component"].dropna())
    dots = found.plot().to_dict()["data"][0]
    assert len(dots["x"]) == 4, "three components, and all of them"


def test_what_cannot_be_attributed_is_refused(gpt2):
    edit = step(gpt2, 0)
    with pytest.raises(SteeringError, match="No block comes after"):
        attribute_gain(gpt2, CHOOSE, REPORT, step(gpt2, gpt2.n_layers - 1), progress=False)
    with pytest.raises(ArgumentError, match="unsteered model"):
        attribute_gain(gpt2, CHOOSE, REPORT, edit, 0.0, progress=False)
    with pytest.raises(ArgumentError, match="puts a prompt before"):
        attribute_gain(gpt2, CHOOSE, REPORT, Prompt("the cat ."), progress=False)
    with pytest.raises(ValueError, match="share 2 questions"):
        attribute_gain(gpt2, CHOOSE, CHOOSE, edit, progress=False)
    with edit.attach(gpt2, 1.0):
        gpt2.logits("the cat")
        with pytest.raises(SteeringError, match="attached"):
            attribute_gain(gpt2, CHOOSE, REPORT, edit, progress=False)
