"""Activation patching: TransformerLens's numbers, both ways, along a vector, and of steering."""

from __future__ import annotations

import pytest
import torch

from steerlens.analyses.patching.measure_patching import patching, trace_steering
from steerlens.analyses.patching.patching_map import PatchingMap
from steerlens.analyses.patching.prompt_pair import PromptPair
from steerlens.data import ContrastError
from steerlens.interventions import Add
from steerlens.measures.sweep import sweep
from steerlens.models.attached import SteeringError
from steerlens.models.model import Model
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_bridge
from tests.strangers import LouderHeads, Silent, low_rank

RAW = [
    ("the cat sat on the", "the dog sat on the", " bed", " food"),
    ("the king ate the soup", "the fish ate the soup", " good", " bad"),
    ("my big cat slept here", "my old dog slept here", " today", " now"),
]


def oriented(model, ends=("", ""), start=""):
    """The pairs with answers that the clean prompt favours more than the corrupt one."""
    zero = Silent(LouderHeads(0))
    found = []
    for clean, corrupt, one, other in RAW:
        clean, corrupt = start + clean, start + corrupt
        answers = (one + ends[0], other + ends[1])
        asked = [(clean, *answers), (corrupt, *answers)]
        odds = sweep(model, asked, [zero], [0.0], progress=False).log_odds[0, 0]
        found.append(PromptPair(clean, corrupt, *(answers if odds[0] > odds[1] else answers[::-1])))
    return found


def quiet(model, pairs, **options):
    return patching(model, pairs, progress=False, **options)


@pytest.mark.parametrize("stream", ["resid_pre", "attn_out", "mlp_out"])
def test_it_equals_transformer_lens(gpt2, stream):
    from transformer_lens import patching as theirs

    pairs = oriented(gpt2)
    clean, corrupt = (
        gpt2.tokens([getattr(p, side) for p in pairs]).tokens for side in ("clean", "corrupt")
    )
    ids = torch.tensor([[gpt2.ids(w)[-1] for w in (p.positive, p.negative)] for p in pairs])

    def odds(logits):
        both = logits[:, -1].gather(-1, ids)
        return (both[:, 0] - both[:, 1]).mean()

    with torch.no_grad():
        _, cache = gpt2.wrapped.run_with_cache(clean)
        helper = getattr(theirs, f"get_act_patch_{stream}")
        expected = helper(gpt2.wrapped, corrupt, cache, odds)
        ends = [odds(gpt2.wrapped(tokens)) for tokens in (clean, corrupt)]
    found = quiet(gpt2, pairs, sites=gpt2.sites(stream))
    torch.testing.assert_close(found.denoised.mean(-1), expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.clean.mean(), ends[0], atol=2e-5, rtol=1e-5)
    normalised = (expected - ends[1]) / (ends[0] - ends[1])
    torch.testing.assert_close(found.effect(), normalised, atol=1e-4, rtol=1e-4)
    assert float(found.effect().abs().max()) > 0.05


def test_noising_and_longer_answers_by_hand(tiny):
    pairs = oriented(tiny, (" and so", " but then"))
    site, column = Site(1), 2
    found = quiet(tiny, pairs, sites=[site], how="noise")
    assert found.denoised is None and found.ways == ("noise",)
    k = found.positions.index(column - len(tiny.ids(pairs[0].clean)))
    for i, pair in enumerate(pairs):
        corrupt = tiny.wrapped.run_with_cache(tiny.tokens([pair.corrupt]).tokens)[1][site.hook]

        def put(resid, hook, corrupt=corrupt):
            return torch.cat([resid[:, :column], corrupt[:, [column]], resid[:, column + 1 :]], 1)

        sums = []
        for answer in (pair.positive, pair.negative):
            batch = tiny.answered([pair.clean], [answer])
            logits = tiny.wrapped.run_with_hooks(batch.tokens, fwd_hooks=[(site.hook, put)])
            log_probs = torch.log_softmax(logits.float(), -1)[0, :-1]
            each = log_probs.gather(-1, batch.tokens[0, 1:, None])[:, 0]
            sums.append(each[int(batch.prompt_end[0]) - 1 :].sum())
        torch.testing.assert_close(found.noised[0, k, i], sums[0] - sums[1], atol=3e-5, rtol=1e-5)


def test_the_last_stream_decides_and_the_past_of_the_difference_does_not(gpt2):
    pairs = oriented(gpt2)
    found = quiet(gpt2, pairs)
    for way in ("denoise", "noise"):
        effect = found.effect(way)
        torch.testing.assert_close(effect[-1, -1], torch.tensor(1.0))
        assert float(effect[:, :2].abs().max()) < 1e-5  # BOS and "the" are the same in both
        assert float(effect[-1, :-1].abs().max()) < 1e-5  # no later block reads them
        one = found.effect(way, example=1)
        torch.testing.assert_close(one[-1, -1], torch.tensor(1.0))
    assert found.labels[2].startswith("-4: ·cat / ·dog") or "cat / " in found.labels[2]


def test_prompts_of_other_lengths_are_aligned_from_the_end(gpt2):
    pairs, longer = oriented(gpt2), oriented(gpt2, start="so ")[0]
    both, alone = quiet(gpt2, [pairs[1], longer]), quiet(gpt2, [longer])
    assert len(both.positions) == len(alone.positions) - 1
    torch.testing.assert_close(both.denoised[..., 1], alone.denoised[:, 1:, 0], atol=2e-5, rtol=0)


def test_along_a_vector_is_the_interchange_of_one_coordinate(gpt2, random_direction):
    pairs, site = oriented(gpt2)[:1], Site(1)
    d = random_direction(site, 32)
    found = quiet(gpt2, pairs, along=d)
    assert found.sites == (site,)
    u = d.unit().vector
    clean, corrupt = (gpt2.tokens([t]).tokens for t in (pairs[0].clean, pairs[0].corrupt))
    given = gpt2.wrapped.run_with_cache(clean)[1][site.hook]

    def put(resid, hook):
        out = resid.clone()
        out[:, 3] = resid[:, 3] + ((given[:, 3] - resid[:, 3]) @ u)[:, None] * u
        return out

    logits = gpt2.wrapped.run_with_hooks(corrupt, fwd_hooks=[(site.hook, put)])[0, -1]
    one, other = (gpt2.ids(w)[-1] for w in (pairs[0].positive, pairs[0].negative))
    torch.testing.assert_close(found.denoised[0, 3, 0], logits[one] - logits[other],
                               atol=2e-5, rtol=1e-5)  # fmt: skip


def test_a_bridge_gives_the_same(gpt2):
    pairs = oriented(gpt2)
    bridge = quiet(Model(tiny_bridge("gpt2")), pairs, sites=[0, 2])
    hooked = quiet(gpt2, pairs, sites=[0, 2])
    torch.testing.assert_close(bridge.denoised, hooked.denoised, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(bridge.noised, hooked.noised, atol=5e-5, rtol=1e-4)


def test_steering_is_traced_from_where_it_acts(gpt2, random_direction):
    questions = [(p.clean, p.positive, p.negative) for p in oriented(gpt2)]
    add = Add(random_direction(Site(1), 32), Positions.last())
    found = trace_steering(gpt2, questions, add, 2.0, progress=False)
    swept = sweep(gpt2, questions, [add], [0.0, 2.0], progress=False).log_odds[0]
    torch.testing.assert_close(torch.stack([found.corrupt, found.clean]), swept,
                               atol=2e-5, rtol=1e-5)  # fmt: skip
    for way in ("denoise", "noise"):
        effect = found.effect(way)
        torch.testing.assert_close(effect[1:, -1], torch.ones(2), atol=1e-4, rtol=0)
        assert float(effect[0].abs().max()) < 1e-5 and float(effect[:, :-1].abs().max()) < 1e-5
    weights = trace_steering(gpt2, questions, low_rank(gpt2, 1), 1.0, progress=False)
    for way in ("denoise", "noise"):
        assert float(weights.effect(way)[0].abs().max()) < 1e-5
        torch.testing.assert_close(weights.effect(way)[-1, -1], torch.tensor(1.0))


def test_it_saves_loads_tabulates_and_draws(gpt2, tmp_path):
    found = quiet(gpt2, oriented(gpt2) * 3)
    again = PatchingMap.load(found.save(tmp_path))
    assert torch.equal(again.denoised, found.denoised) and again.labels == found.labels
    table = found.to_frame()
    assert len(table) == len(found.sites) * len(found.positions)
    assert {"denoise", "denoise_low", "noise", "layer"} <= set(table.columns)
    assert bool((table["denoise_low"] <= table["denoise"]).all())
    assert "denoise: most is restored" in found.summary()
    assert len(found.plot().data) >= 2
    only = quiet(gpt2, oriented(gpt2), how="denoise", sites=["blocks.0.hook_attn_out", 1])
    with pytest.raises(ValueError, match="'noise' was not measured"):
        only.effect("noise")
    assert only.plot().layout.title.text


def test_finished_units_are_not_run_again(gpt2, tmp_path, monkeypatch):
    from steerlens.analyses.patching import measure_patching
    from steerlens.store.cells import Cells

    pairs, cells = oriented(gpt2), Cells(tmp_path)
    first = quiet(gpt2, pairs, cells=cells)
    monkeypatch.setattr(measure_patching._Patching, "_rerun", None)
    assert torch.equal(quiet(gpt2, pairs, cells=cells).denoised, first.denoised)


def test_what_cannot_be_patched_is_refused(gpt2, random_direction, unchecked):
    pair = oriented(gpt2)[0]
    turned = PromptPair(pair.clean, pair.corrupt, pair.negative, pair.positive)
    d = random_direction(Site(1), 32)
    for make, error, text in (
        (lambda: quiet(gpt2, []), ContrastError, "no pairs of prompts"),
        (lambda: quiet(gpt2, ["the cat"]), ContrastError, "Write PromptPair"),
        (lambda: PromptPair("a", "a", "b", "c"), ContrastError, "would change nothing"),
        (lambda: quiet(gpt2, [("the cat", "the big cat", " sat", " ran")]), ValueError,
         "have 3 and 4 tokens"),
        (lambda: quiet(gpt2, [turned]), ValueError, "no difference that a patch could restore"),
        (lambda: quiet(gpt2, [pair], how="both"), ValueError, "must be 'denoise', 'noise'"),
        (lambda: quiet(gpt2, [pair], along=d, sites=[1]), ValueError, "at their own sites"),
        (lambda: quiet(gpt2, [pair], along=[d, d]), ValueError, "the same site"),
        (lambda: quiet(gpt2, [pair], sites=[9]), ValueError, "layers 0–2"),
        (lambda: trace_steering(gpt2, [(pair.clean, " a", " the")], Add(d), 0.0, progress=False),
         ValueError, "does not change"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            make()
    with pytest.raises(SteeringError, match="trace_steering"), Add(d).attach(gpt2, 1.0):
        quiet(gpt2, [pair])
