"""Every kind through sweeps: the fast paths give the numbers of attaching and a full forward pass."""

import pytest
import torch

from steerlens.directions import Direction
from steerlens.forms import LoRA, PostBlock
from steerlens.interventions import Ablate, Add, Together
from steerlens.interventions.changes import Dense, PromptChange, WeightChange
from steerlens.interventions.composition import Composition, composed
from steerlens.measures.divergence import divergence
from steerlens.measures.engine import Engine
from steerlens.measures.sweep import sweep
from steerlens.models.model import Model
from steerlens.protocols import takes_rows
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_model
from tests.grids import MULTIPLIERS, SEVERAL_TOKENS
from tests.kinds import moved
from tests.strangers import Silent
from tests.test_forms import FAMILIES, FORMS

STRENGTHS = (-1.0, 2.0)
NEUTRAL = ["the cat sat on the bed and ran to the town", "you think that he was really very happy"]


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Model(tiny_model(request.param, n_layers=2, d_model=16))


def every_kind(model):
    """One intervention of each kind, and the path that it takes."""
    trained = {
        name: FORMS[name].intervention(model, moved(FORMS[name], model))
        for name in ("vector", "LoReFT", "post-block", "LoRA", "LoRA of one block",
                     "full weights", "joint", "soft prefix")
    }  # fmt: skip
    direction = Direction(torch.randn(16, generator=torch.Generator().manual_seed(5)), Site(1))
    shape = tuple(model.wrapped.unembed.W_U.shape)
    both = Together((trained["vector"], Ablate(direction)), (1.0, 0.5))
    dense = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(6))
    arms = {**trained, "two edits": both}
    arms["vector and LoRA"] = Together((trained["vector"], trained["LoRA of one block"]), (1, 0.5))
    arms["unembedding"] = composed([WeightChange("unembed.W_U", Dense(dense))], "unembedding")
    arms["prompt"] = Composition((PromptChange(torch.tensor([9, 8])),), "prompt")
    arms["vector and prompt"] = Together((trained["vector"], arms["prompt"]))
    paths = {
        "vector": "wavefront", "LoReFT": "wavefront", "post-block": "several",
        "two edits": "several", "prompt": "prompts", "soft prefix": "prompts",
        "vector and prompt": "general",
    }  # fmt: skip
    return {name: (arm, paths.get(name, "weights")) for name, arm in arms.items()}


def naive(model, pairs, intervention, multipliers):
    """Log-probabilities of both answers by attaching and plain forward passes."""
    out = torch.empty(len(multipliers), len(pairs), 2)
    for side in range(2):
        answers = [(pair.positive, pair.negative)[side] for pair in pairs]
        batch = model.answered([pair.prompt for pair in pairs], answers, padding_side="right")
        for j, m in enumerate(multipliers):
            with intervention.attach(model, m):
                log_p = torch.log_softmax(model.logits(batch)[:, :-1], -1)
            of_tokens = log_p.gather(-1, batch.tokens[:, 1:, None])[..., 0]
            columns = torch.arange(1, batch.width)
            counted = (columns >= batch.prompt_end[:, None]) & batch.mask[:, 1:]
            out[j, :, side] = (of_tokens * counted).sum(-1)
    return out


def test_every_path_is_attach_and_a_full_forward_pass(small):
    kinds = every_kind(small)
    arms = [arm for arm, _ in kinds.values()]
    swept = sweep(small, SEVERAL_TOKENS, arms, (0.0, *STRENGTHS), progress=False)
    assert swept.plan.path == "wavefront + several + weights + prompts + general"
    for i, (name, (arm, _)) in enumerate(kinds.items()):
        expected = naive(small, SEVERAL_TOKENS, arm, STRENGTHS)
        found = torch.stack([swept.positive[i], swept.negative[i]], -1)[1:]
        torch.testing.assert_close(
            found, expected, atol=2e-4, rtol=1e-5, msg=lambda t, n=name: n + t
        )
        alone = Engine(small, [arm], STRENGTHS).paths
        assert [path.name for path in alone] == [kinds[name][1]]
    assert len(small.attached) == 0


def test_the_cost_on_text_is_that_of_attaching(small):
    kinds = every_kind(small)
    arms = [arm for arm, _ in kinds.values()]
    silent = [Silent(arm) for arm in arms]
    found = divergence(small, NEUTRAL, arms, (0.0, 1.0), progress=False)
    expected = divergence(small, NEUTRAL, silent, (0.0, 1.0), progress=False)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_a_mixed_sweep_leaves_vectors_their_path_and_their_bits(small):
    kinds = every_kind(small)
    vectors = [kinds["vector"][0], kinds["LoReFT"][0]]
    alone = sweep(small, SEVERAL_TOKENS, vectors, MULTIPLIERS, progress=False)
    mixed = sweep(
        small, SEVERAL_TOKENS, [*vectors, kinds["LoRA"][0], kinds["post-block"][0]], MULTIPLIERS,
        progress=False,
    )  # fmt: skip
    assert mixed.plan.paths[0] == alone.plan.paths[0]
    assert torch.equal(mixed.positive[:2], alone.positive)
    assert torch.equal(mixed.negative[:2], alone.negative)


def test_little_memory_changes_nothing_but_rounding(small):
    kinds = every_kind(small)
    arms = [kinds[name][0] for name in ("post-block", "LoRA", "prompt")]
    whole = sweep(small, SEVERAL_TOKENS, arms, MULTIPLIERS, progress=False)
    cut = sweep(small, SEVERAL_TOKENS, arms, MULTIPLIERS, memory=1, progress=False)
    torch.testing.assert_close(cut.positive, whole.positive, atol=1e-4, rtol=1e-5)


def test_weights_are_put_back_after_an_error_while_they_are_read(small, monkeypatch):
    lora = every_kind(small)["LoRA"][0]
    before = dict(small.wrapped.named_parameters())
    from steerlens.measures import answer_scores

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(answer_scores.AnswerScores, "__call__", fail)
    with pytest.raises(KeyboardInterrupt) as kept:  # the traceback holds the frames
        sweep(small, SEVERAL_TOKENS, [lora], (1.0,), progress=False)
    after = dict(small.wrapped.named_parameters())
    assert kept is not None and all(after[name] is before[name] for name in before)


def test_weights_take_rows_of_one_multiplier_and_edits_any(small):
    kinds = every_kind(small)
    one = {"LoRA", "LoRA of one block", "full weights", "joint", "unembedding", "vector and LoRA"}
    assert {name for name, (arm, _) in kinds.items() if not takes_rows(arm)} == one


def test_an_edit_of_no_token_is_refused(small):
    adapter = PostBlock(rank=1, positions=Positions.generated())
    arm = adapter.intervention(small, moved(adapter, small))
    with pytest.raises(ValueError, match="chooses no token"):
        sweep(small, [SEVERAL_TOKENS[0].__class__("you", " like", " hate")], [arm], (1.0,))


def test_a_trained_vector_is_an_add(small):
    assert isinstance(every_kind(small)["vector"][0], Add)


def test_layers_that_are_not_there_are_refused_before_any_work(small):
    deep = Model(tiny_model("gpt2", n_layers=4, d_model=16))
    form = LoRA(rank=1, layers=(3,))
    with pytest.raises(ValueError, match="has none of that name"):
        sweep(small, SEVERAL_TOKENS, [form.intervention(deep, moved(form, deep))], (1.0,))
