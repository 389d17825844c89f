"""The direct part of a gain is what the step does where all blocks' outputs are held."""

import pytest
import torch

from steerlens.directions import Direction
from steerlens.interventions import Ablate, Add, Clamp, Together
from steerlens.interventions.scaled import scaled
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.sweep import sweep
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from tests.grids import MULTIPLIERS, ONE_TOKEN, SEVERAL_TOKENS, every_edit
from tests.strangers import low_rank

PAIRS = pytest.mark.parametrize(
    "pairs", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several tokens"]
)
pytestmark = pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer")


@torch.no_grad()
def held(model, pairs, edits, multipliers):
    """Forward passes of unpadded rows in which every sublayer writes what it writes unsteered."""
    names = [f"blocks.{n}.hook_{s}" for n in range(model.n_layers) for s in ("attn_out", "mlp_out")]
    names = [name for name in names if name in model.wrapped.hook_dict]
    out = torch.zeros(len(edits), len(multipliers), len(pairs), 2)
    strengths = torch.tensor(multipliers)  # one row each
    for n, pair in enumerate(pairs):
        for side, answer in enumerate((pair.positive, pair.negative)):
            prompt, ids = model.split(pair.prompt, answer)
            batch = model.answered([pair.prompt] * len(strengths), [answer] * len(strengths))
            kept = {}

            def keep(x, hook, kept=kept):
                kept[hook.name] = x.clone()

            def hold(x, hook, kept=kept):
                return kept[hook.name]

            def run(hooks, batch=batch):
                with model.wrapped.hooks(fwd_hooks=hooks):
                    return model.wrapped(batch.tokens, attention_mask=batch.mask.long())

            run([(name, keep) for name in names])
            at = torch.arange(len(ids)) + len(prompt) - 1
            for i, edit in enumerate(edits):
                chosen = edit.positions.mask(batch)[..., None]

                def steer(x, hook, edit=edit, chosen=chosen):
                    return torch.where(chosen, edit(x, strengths), x)

                hooks = [(name, hold) for name in names]
                logits = run([*hooks, (edit.site.hook, steer)])
                out[i, :, n, side] = logits.log_softmax(-1)[:, at, torch.tensor(ids)].sum(-1)
    odds = out[..., 0] - out[..., 1]
    return odds - odds[:, list(multipliers).index(0.0), None]


def edits_of(model, positions):
    """Every edit of the grid, and those of what one sublayer writes."""
    generator = torch.Generator().manual_seed(7)
    inside = [Site(1, "attn_out"), Site(0, "mlp_out")]
    directions = [Direction(torch.randn(model.d_model, generator=generator), s) for s in inside]
    return [*every_edit(model, positions), *(Add(d, positions, "direction") for d in directions)]


@PAIRS
@pytest.mark.parametrize("positions", [Positions.from_prompt_end(), Positions.all()], ids=repr)
def test_the_direct_part_is_that_of_held_blocks(tiny, pairs, positions):
    edits = edits_of(tiny, positions)
    found = direct_gain(tiny, pairs, edits, MULTIPLIERS, progress=False)
    expected = held(tiny, pairs, edits, MULTIPLIERS)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4)
    assert float(found[:, MULTIPLIERS.index(0.0)].abs().max()) == 0
    assert float(found[:, -1].abs().amax(-1).min()) > 1e-3


@PAIRS
def test_the_same_on_a_bridge(tiny_bridge_model, pairs):
    edits = every_edit(tiny_bridge_model, Positions.from_prompt_end())
    found = direct_gain(tiny_bridge_model, pairs, edits, MULTIPLIERS, progress=False)
    expected = held(tiny_bridge_model, pairs, edits, MULTIPLIERS)
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4)


@PAIRS
def test_after_the_last_block_everything_is_direct(tiny, pairs):
    positions = Positions.from_prompt_end()
    last = Site(tiny.n_layers - 1)
    edits = [e for e in every_edit(tiny, positions) if e.site == last]
    swept = sweep(tiny, pairs, edits, MULTIPLIERS, progress=False)
    gain = swept.log_odds - swept.log_odds[:, [MULTIPLIERS.index(0.0)]]
    found = direct_gain(tiny, pairs, edits, MULTIPLIERS, progress=False)
    assert float(gain[:, -1].abs().min()) > 1e-3
    torch.testing.assert_close(found, gain, atol=5e-5, rtol=1e-4)


def test_an_edit_of_earlier_tokens_has_no_direct_part(gpt2):
    """The answer is read at the last token, and an edit of others reaches it by attention alone."""
    direction = Direction(torch.ones(gpt2.d_model).cumsum(0), Site(0))
    edits = [Add(direction, Positions.span(0, 2), "direction")]
    swept = sweep(gpt2, ONE_TOKEN, edits, (0.0, 1.0), progress=False)
    assert float((swept.log_odds[0, 1] - swept.log_odds[0, 0]).abs().min()) > 1e-3
    assert float(direct_gain(gpt2, ONE_TOKEN, edits, (0.0, 1.0), progress=False).abs().max()) == 0


def test_edits_together_add_their_steps_in_the_order_of_the_forward_pass(gpt2):
    """The later edit sees the steps of the earlier ones, whatever order they are listed in."""
    generator = torch.Generator().manual_seed(3)
    u, v = (torch.randn(gpt2.d_model, generator=generator) for _ in range(2))
    rule = Positions.from_prompt_end()
    early, late = Add(Direction(u, Site(0)), rule, "direction"), Ablate(Direction(v, Site(2)), rule)
    both = [Together((late, early), (1.0, 0.5)), Together((early, late), (0.5, 1.0))]
    found = direct_gain(gpt2, ONE_TOKEN, both, (0.0, 1.0), progress=False)
    torch.testing.assert_close(found[0], found[1])
    final = gpt2.cache(gpt2.tokens([pair.prompt for pair in ONE_TOKEN]), [Site(2)])[Site(2)][:, -1]
    edited = late((final + 0.5 * u)[:, None], 1.0)[:, 0]

    def odds(resid):
        logits = gpt2.unembed(gpt2.readout.norm(resid))
        answers = [
            [gpt2.split(p.prompt, a)[1][0] for a in (p.positive, p.negative)] for p in ONE_TOKEN
        ]
        picked = logits.gather(-1, torch.tensor(answers))
        return picked[:, 0] - picked[:, 1]

    with torch.no_grad():
        expected = odds(edited) - odds(final)
    torch.testing.assert_close(found[0, 1], expected, atol=5e-5, rtol=1e-4)
    shorter = direct_gain(gpt2, ONE_TOKEN, [scaled(both[0], 0.5)], (0.0, 2.0), progress=False)
    torch.testing.assert_close(shorter[0, 1], found[0, 1], atol=5e-5, rtol=1e-4)


def test_a_change_of_weights_has_no_step(gpt2):
    edits = [low_rank(gpt2, 1), Clamp(Direction(torch.ones(gpt2.d_model), Site(0)), 1.0)]
    found = direct_gain(gpt2, ONE_TOKEN, edits, MULTIPLIERS, progress=False)
    assert bool(found[0].isnan().all()) and bool(found[1].isfinite().all())
    assert bool(direct_gain(gpt2, ONE_TOKEN, edits[:1], (0.0, 1.0), progress=False).isnan().all())


def test_units_of_examples_give_the_same_numbers_and_are_kept(gpt2, tmp_path, monkeypatch):
    edits = every_edit(gpt2, Positions.from_prompt_end())
    whole = direct_gain(gpt2, SEVERAL_TOKENS, edits, MULTIPLIERS, progress=False)
    monkeypatch.setattr("steerlens.measures.direct_gain.KEPT_TOKENS", 1)
    cells = Cells(tmp_path, progress=False)
    pieces = direct_gain(gpt2, SEVERAL_TOKENS, edits, MULTIPLIERS, cells=cells)
    torch.testing.assert_close(pieces, whole, atol=3e-5, rtol=1e-5)
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(SEVERAL_TOKENS)
    monkeypatch.setattr("steerlens.measures.direct_gain._unit", None)  # nothing is computed again
    assert torch.equal(direct_gain(gpt2, SEVERAL_TOKENS, edits, MULTIPLIERS, cells=cells), pieces)


def test_nothing_to_split_is_refused(gpt2):
    with pytest.raises(ValueError, match="Nothing to split"):
        direct_gain(gpt2, ONE_TOKEN, [], (0.0, 1.0))
