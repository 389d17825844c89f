"""The sweep gives the numbers of a full forward pass per cell, whatever path it takes."""

import pytest
import torch

from steerlens.data import ContrastPair
from steerlens.interventions import Add
from steerlens.measures.sweep import plan, sweep
from steerlens.measures.tokenised import questions
from steerlens.models.model import SteeringError
from steerlens.sites import Positions, Site
from tests.grids import MULTIPLIERS, ONE_TOKEN, SEVERAL_TOKENS, every_edit
from tests.strangers import Silent

RULES = [
    Positions.all(),
    Positions.all(special=True),
    Positions.from_prompt_end(),
    Positions.span(1, 3),
    Positions.span(-2),
]
pytestmark = pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer")


@torch.no_grad()
def naive(model, pairs, edits, multipliers):
    """One hook, and one full forward pass of unpadded rows for every edit, example and answer.

    The rows are the same text, each with a multiplier.
    """
    out = torch.zeros(len(edits), len(multipliers), len(pairs), 2)
    strengths = torch.tensor(multipliers)
    for n, pair in enumerate(pairs):
        for side, answer in enumerate((pair.positive, pair.negative)):
            prompt, ids = model.split(pair.prompt, answer)
            batch = model.answered([pair.prompt] * len(strengths), [answer] * len(strengths))
            at = torch.arange(len(ids)) + len(prompt) - 1
            for i, edit in enumerate(edits):
                chosen = edit.positions.mask(batch)[..., None]

                def hook_fn(resid, hook, edit=edit, chosen=chosen):
                    return torch.where(chosen, edit(resid, strengths), resid)

                with model.wrapped.hooks(fwd_hooks=[(edit.site.hook, hook_fn)]):
                    logits = model.wrapped(batch.tokens, attention_mask=batch.mask.long())
                out[i, :, n, side] = logits.log_softmax(-1)[:, at, torch.tensor(ids)].sum(-1)
    return out


@pytest.mark.parametrize("pairs", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several tokens"])
@pytest.mark.parametrize("positions", RULES, ids=repr)
def test_the_wavefront_equals_one_forward_pass_per_cell(tiny, pairs, positions):
    edits = every_edit(tiny, positions)
    swept = sweep(tiny, pairs, edits, MULTIPLIERS, progress=False)
    expected = naive(tiny, pairs, edits, MULTIPLIERS)
    assert swept.plan.path == "wavefront"
    torch.testing.assert_close(swept.positive, expected[..., 0], atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(swept.negative, expected[..., 1], atol=3e-5, rtol=1e-5)
    moved = (swept.log_odds - swept.log_odds[:, 1:2]).abs()[:, 3].amax(-1)
    # After the last block an edit of earlier tokens changes nothing; others must move something.
    assert float(moved[:5].min()) > 1e-3


@pytest.mark.parametrize("pairs", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several tokens"])
def test_log_odds_only_gives_the_same_log_odds(tiny, pairs):
    edits = every_edit(tiny, Positions.from_prompt_end())
    whole = sweep(tiny, pairs, edits, MULTIPLIERS, progress=False)
    short = sweep(tiny, pairs, edits, MULTIPLIERS, progress=False, log_odds_only=True)
    torch.testing.assert_close(short.log_odds, whole.log_odds, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("pairs", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several tokens"])
def test_a_bridge_equals_one_forward_pass_per_cell(tiny_bridge_model, pairs):
    edits = every_edit(tiny_bridge_model, Positions.from_prompt_end())
    swept = sweep(tiny_bridge_model, pairs, edits, MULTIPLIERS, progress=False)
    expected = naive(tiny_bridge_model, pairs, edits, MULTIPLIERS)
    assert swept.plan.path == "replay"
    torch.testing.assert_close(swept.positive, expected[..., 0], atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(swept.negative, expected[..., 1], atol=3e-5, rtol=1e-5)


def test_the_general_path_equals_the_wavefront(tiny):
    edits = every_edit(tiny, Positions.all())
    fast = sweep(tiny, SEVERAL_TOKENS, edits, MULTIPLIERS, progress=False)
    wrapped = [Silent(edit) for edit in edits]  # says nothing of what it changes
    slow = sweep(tiny, SEVERAL_TOKENS, wrapped, MULTIPLIERS, progress=False)
    assert (fast.plan.path, slow.plan.path) == ("wavefront", "general")
    torch.testing.assert_close(fast.positive, slow.positive, atol=3e-5, rtol=1e-5)


def test_attention_out_is_swept_by_the_general_path(gpt2, random_direction):
    edit = Add(random_direction(Site(1, "attn_out"), gpt2.d_model), unit="direction")
    swept = sweep(gpt2, ONE_TOKEN, [edit], MULTIPLIERS, progress=False)
    expected = naive(gpt2, ONE_TOKEN, [edit], MULTIPLIERS)
    assert swept.plan.path == "general"
    torch.testing.assert_close(swept.positive, expected[..., 0], atol=3e-5, rtol=1e-5)


def test_little_memory_gives_the_same_numbers_in_smaller_pieces(tiny):
    edits = every_edit(tiny, Positions.all())
    whole = sweep(tiny, SEVERAL_TOKENS, edits, MULTIPLIERS, progress=False)
    pieces = sweep(tiny, SEVERAL_TOKENS, edits, MULTIPLIERS, progress=False, memory=200_000)
    (planned,) = pieces.plan.paths
    assert planned.examples_per_batch == 1
    assert planned.cells_per_batch < planned.cells
    assert pieces.plan.is_cut and not whole.plan.is_cut
    torch.testing.assert_close(pieces.positive, whole.positive, atol=3e-5, rtol=1e-5)


def test_running_out_of_memory_halves_the_chunk_and_goes_on(gpt2, monkeypatch):
    from steerlens.models.kernel import Kernel

    edits = every_edit(gpt2, Positions.from_prompt_end())
    whole = sweep(gpt2, ONE_TOKEN, edits, MULTIPLIERS, progress=False)
    real, refused = Kernel.block, []

    def block(self, layer, resid, *arguments, **named):
        if resid.shape[0] > 1:
            refused.append(resid.shape[0])
            raise torch.OutOfMemoryError("not enough memory: made up by a test")
        return real(self, layer, resid, *arguments, **named)

    monkeypatch.setattr(Kernel, "block", block)
    halved = sweep(gpt2, ONE_TOKEN, edits, MULTIPLIERS, progress=False)
    assert refused
    torch.testing.assert_close(halved.positive, whole.positive, atol=3e-5, rtol=1e-5)


def test_other_errors_are_not_taken_for_a_lack_of_memory(gpt2, monkeypatch):
    from steerlens.models.kernel import Kernel

    def block(self, *arguments, **named):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Kernel, "block", block)
    edits = every_edit(gpt2, Positions.from_prompt_end())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sweep(gpt2, ONE_TOKEN, edits, MULTIPLIERS, progress=False)


def test_a_prefix_is_shared_only_up_to_the_first_edited_token(gpt2):
    def columns(positions):
        edits = every_edit(gpt2, positions)
        return sweep(gpt2, ONE_TOKEN, edits, MULTIPLIERS, progress=False).plan.paths[0].columns

    width = questions(gpt2, ONE_TOKEN).prompt_width
    assert columns(Positions.from_prompt_end()) == 1
    assert columns(Positions.span(-3)) == 3
    assert columns(Positions.all()) == width - 1  # all but BOS of the longest


def test_a_users_own_hook_is_not_left_out(gpt2, random_direction):
    """The fast path cannot run a foreign hook, so the hooked forward pass is used."""
    edit = Add(random_direction(Site(1), gpt2.d_model), unit="direction")
    bare = sweep(gpt2, ONE_TOKEN, [edit], MULTIPLIERS, progress=False)
    with gpt2.wrapped.hooks(fwd_hooks=[(Site(0).hook, lambda resid, hook: resid * 1.5)]):
        hooked = sweep(gpt2, ONE_TOKEN, [edit], MULTIPLIERS, progress=False)
    assert hooked.plan.path == "general"
    assert float((hooked.log_odds - bare.log_odds).abs().max()) > 1e-3


def test_answers_that_no_token_tells_apart_are_refused(gpt2, random_direction):
    edit = Add(random_direction(Site(1), gpt2.d_model), unit="direction")
    for positive, negative in ((" good", " good cat"), (" good cat", " good")):
        with pytest.raises(ValueError, match="no token tells them apart"):
            sweep(gpt2, [ContrastPair("the soup was", positive, negative)], [edit], MULTIPLIERS)


def test_texts_without_a_prompt_cannot_be_scored(gpt2, random_direction):
    edit = Add(random_direction(Site(1), gpt2.d_model), unit="direction")
    with pytest.raises(ValueError, match="no prompt"):
        sweep(
            gpt2, [ContrastPair("", "the soup was good", "the soup was bad")], [edit], MULTIPLIERS
        )


def test_steering_no_token_is_refused(gpt2, random_direction):
    direction = random_direction(Site(1), gpt2.d_model)
    edit = Add(direction, Positions.generated(), "direction")
    with pytest.raises(SteeringError, match="chooses no token"):
        sweep(gpt2, ONE_TOKEN, [edit], MULTIPLIERS, progress=False)


def test_a_prompt_longer_than_the_context_is_refused(gpt2, random_direction):
    edit = Add(random_direction(Site(1), gpt2.d_model), unit="direction")
    long = " ".join(["cat"] * gpt2.n_ctx)
    with pytest.raises(ValueError, match="the context of"):
        sweep(gpt2, [ContrastPair(long, " good", " bad")], [edit], MULTIPLIERS, progress=False)


def test_the_plan_is_what_the_sweep_does(gpt2):
    edits = every_edit(gpt2, Positions.from_prompt_end())
    planned = plan(gpt2, ONE_TOKEN, edits, MULTIPLIERS)
    assert sweep(gpt2, ONE_TOKEN, edits, MULTIPLIERS, progress=False).plan == planned
    assert planned.cells == len(edits) * 3, "multiplier 0 costs nothing"
    assert "wavefront" in str(planned)
