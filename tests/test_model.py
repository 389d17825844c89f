"""The model handle: explicit padding and BOS, steering gone after the `with`, nothing silent."""

import dataclasses

import pytest
import torch

from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction, DirectionError
from steerlens.interventions import Ablate, Add
from steerlens.models.model import Model, SteeringError, as_model
from steerlens.sites import Positions, Site
from steerlens.testing import tiny_bridge, tiny_model

TEXTS = ["the cat sat on the bed and ran", "you like", "I think the good soup was"]


@pytest.fixture(scope="module", params=["HookedTransformer", "TransformerBridge"])
def either(request):
    """The same model as either kind."""
    build = tiny_model if request.param == "HookedTransformer" else tiny_bridge
    return Model(build("llama"))


@pytest.fixture
def add(gpt2, random_direction):
    return Add(random_direction(Site(1), gpt2.d_model), Positions.all())


def hooks_of(model):
    return sum(len(point.fwd_hooks) for point in model.wrapped.hook_dict.values())


# Wrapping


def test_a_users_own_model_goes_straight_in(gpt2):
    assert as_model(gpt2.wrapped).wrapped is gpt2.wrapped
    assert as_model(gpt2) is gpt2
    assert Model.load(gpt2) is gpt2


def test_what_is_no_model_is_refused(gpt2):
    with pytest.raises(TypeError, match=r"not Linear. For a name or a folder write Model.load"):
        Model(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="a steerlens Model already"):
        Model(gpt2)


def test_a_model_without_tokenizer_is_refused():
    hooked = tiny_model("gpt2", n_layers=1)
    hooked.tokenizer = None
    with pytest.raises(ValueError, match=r"has no tokenizer.*set_tokenizer"):
        Model(hooked)


# Tokens


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_row_is_its_row_in_a_padded_batch(tiny, side):
    batch = tiny.tokens(TEXTS, padding_side=side)
    together = tiny.logits(batch)
    for i, text in enumerate(TEXTS):
        bare = tiny.wrapped(torch.tensor([tiny.ids(text)]))[0]
        torch.testing.assert_close(together[i][batch.mask[i]], bare, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_row_is_its_row_in_a_padded_batch_of_a_bridge(tiny_bridge_model, side):
    batch = tiny_bridge_model.tokens(TEXTS, padding_side=side)
    together = tiny_bridge_model.logits(batch)
    for i, text in enumerate(TEXTS):
        bare = tiny_bridge_model.wrapped(torch.tensor([tiny_bridge_model.ids(text)]))[0]
        torch.testing.assert_close(together[i][batch.mask[i]], bare, atol=2e-5, rtol=1e-5)


def test_a_text_starts_with_one_bos_or_none(gpt2):
    bos = gpt2.tokenizer.bos_token_id
    assert gpt2.ids("the cat")[0] == bos
    assert gpt2.ids("<bos> the cat") == gpt2.ids("the cat")
    without = Model(gpt2.wrapped, prepend_bos=False)
    assert without.ids("the cat") == gpt2.ids("the cat")[1:]


def test_special_tokens_are_known_and_unknown_words_are_not_special(gpt2):
    with pytest.warns(UserWarning, match="1 of 4 tokens are unknown to the tokenizer"):
        batch = gpt2.tokens(["the zebra cat"])
    assert batch.special.tolist() == [[True, False, False, False]]


def test_texts_that_cannot_be_read_are_refused(gpt2):
    with pytest.raises(ValueError, match="There are no texts"):
        gpt2.tokens([])
    without = Model(gpt2.wrapped, prepend_bos=False)
    with pytest.raises(ValueError, match="Text 1 is empty: it has no tokens"):
        without.tokens(["the", ""])
    long = " ".join(["cat"] * gpt2.n_ctx)
    with pytest.raises(ValueError, match=r"Text 0 has 65 tokens and the context of .* is 64"):
        gpt2.tokens([long])


def test_an_answer_that_melts_into_the_prompt_is_refused(gpt2):
    with pytest.raises(ValueError, match="tokens of prompt 'the ca' change when the answer 't' is"):
        gpt2.answered(["the ca"], ["t"])
    with pytest.raises(ValueError, match="so it is not plain where the answer starts"):
        gpt2.split("the cat", " ")


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_answer_is_read_at_the_first_token_that_differs(gpt2, side):
    pairs = [
        ContrastPair("you like the", " ( A )", " ( B )"),
        ContrastPair("I think that the soup was", " good", " bad and cold"),
    ]
    for read, words in zip(
        gpt2.texts.pairs(pairs, padding_side=side), ("A good", "B bad"), strict=True
    ):
        at = read.tokens[torch.arange(2), read.answer]
        assert gpt2.text(at) == words
        ends = read.tokens[torch.arange(2), read.prompt_end - 1]
        assert gpt2.text(ends) == "the was"


def test_texts_without_a_prompt_are_all_prompt(gpt2):
    one, other = gpt2.texts.pairs([ContrastPair("", "the soup was good", "the soup was")])
    assert one.answer is None
    assert (one.prompt_end.tolist(), other.prompt_end.tolist()) == ([5], [4])


def test_answers_without_a_token_that_differs_are_refused(gpt2):
    with pytest.raises(ValueError, match="one is the start of the other"):
        gpt2.texts.pairs([ContrastPair("the soup was", " good", " good and hot")])


# Sites and directions that do not fit


def test_a_layer_that_does_not_exist_is_refused(gpt2):
    with pytest.raises(ValueError, match=r"Layer 3 is not in 'tiny-gpt2', which has layers 0-2"):
        gpt2.require_site(Site(3))


def test_a_stream_that_does_not_exist_is_refused():
    parallel = Model(tiny_model("neox", n_layers=1))
    with pytest.raises(ValueError, match="no hook 'blocks.0.hook_resid_mid' .*resid_post"):
        parallel.cache("the cat", [Site(0, "resid_mid")])


def test_resid_mid_of_a_bridge_is_refused_since_it_means_another_thing(tiny_bridge_model):
    with pytest.raises(ValueError, match="steering there would differ silently"):
        tiny_bridge_model.require_site(Site(0, "resid_mid"))


def test_a_direction_of_another_width_is_refused(gpt2, random_direction):
    direction = random_direction(Site(0), 31)
    with pytest.raises(DirectionError, match="d_model=31 and 'tiny-gpt2' has 32"):
        Add(direction).attach(gpt2, 1.0)


def test_a_direction_made_under_other_weight_processing_is_refused(gpt2, random_direction):
    direction = dataclasses.replace(random_direction(Site(0), gpt2.d_model), processing="fold_ln")
    with pytest.raises(DirectionError, match="processing 'fold_ln' and 'tiny-gpt2' is 'raw'"):
        Ablate(direction).attach(gpt2, 1.0)


# Steering


def test_nothing_is_left_after_the_with_or_after_an_error(either, random_direction):
    steering = Add(random_direction(Site(1), either.d_model), Positions.all())
    unsteered, hooks = either.logits(TEXTS), hooks_of(either)
    with steering.attach(either, 3.0):
        assert float((either.logits(TEXTS) - unsteered).abs().max()) > 0.1
    assert torch.equal(either.logits(TEXTS), unsteered)
    with pytest.raises(KeyError), steering.attach(either, 3.0):
        raise KeyError
    assert torch.equal(either.logits(TEXTS), unsteered)
    assert (hooks_of(either), len(either.attached)) == (hooks, 0)


def test_an_error_in_the_edit_leaves_nothing_behind(gpt2):
    def broken(resid, strength):
        raise ZeroDivisionError

    unsteered, hooks = gpt2.logits(TEXTS), hooks_of(gpt2)
    with pytest.raises(ZeroDivisionError), gpt2.hooked(Site(1), broken, Positions.all(), 1.0):
        gpt2.logits(TEXTS)
    assert torch.equal(gpt2.logits(TEXTS), unsteered)
    assert hooks_of(gpt2) == hooks


def test_a_users_own_hooks_are_kept(gpt2, add):
    name = Site(0).hook
    with gpt2.wrapped.hooks(fwd_hooks=[(name, lambda resid, hook: resid * 2)]):
        doubled = gpt2.logits(TEXTS)
        assert gpt2.attached.foreign_hooks == [name]
        with add.attach(gpt2, 1.0):
            gpt2.logits(TEXTS)
            assert gpt2.attached.foreign_hooks == [name]
        assert torch.equal(gpt2.logits(TEXTS), doubled)
    assert gpt2.attached.foreign_hooks == []


def test_running_the_wrapped_model_directly_under_steering_is_refused(either, random_direction):
    steering = Add(random_direction(Site(1), either.d_model), Positions.all())
    ids = torch.tensor([either.ids("the cat")])
    with pytest.raises(SteeringError, match="run directly while steering is attached"), \
            steering.attach(either, 1.0):  # fmt: skip
        either.logits("the cat")
        either.wrapped(ids)
    either.wrapped(ids)


def test_steering_that_never_fired_is_refused(gpt2, add):
    with pytest.raises(SteeringError, match="at L1 resid_post never fired.*Run the model inside"), \
            add.attach(gpt2, 1.0):  # fmt: skip
        pass


def test_an_error_inside_the_with_is_not_hidden_by_ours(gpt2, add):
    with pytest.raises(KeyError), add.attach(gpt2, 1.0):
        raise KeyError


def test_layers_below_an_edit_can_be_looked_at(either, random_direction):
    steering = Add(random_direction(Site(1), either.d_model), Positions.all())
    unsteered = either.cache(TEXTS, [Site(0)])[Site(0)]
    with steering.attach(either, 3.0):
        assert torch.equal(either.cache(TEXTS, [Site(0)])[Site(0)], unsteered)


def test_steering_no_token_is_refused(gpt2, random_direction):
    nowhere = Add(random_direction(Site(1), gpt2.d_model), Positions.generated())
    with pytest.raises(SteeringError, match=r"Positions.generated\(\) chose no token"), \
            nowhere.attach(gpt2, 1.0):  # fmt: skip
        gpt2.logits("the cat")


def test_multipliers_per_row_must_match_the_batch(gpt2, add):
    with pytest.raises(SteeringError, match="2 multipliers for a batch of 3 rows.*one per row"), \
            add.attach(gpt2, torch.tensor([1.0, 2.0])):  # fmt: skip
        gpt2.logits(TEXTS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.tensor([0.0, torch.nan])])
def test_a_strength_that_is_not_finite_is_refused(gpt2, add, bad):
    with pytest.raises(ValueError, match="Give finite strengths"), add.attach(gpt2, bad):
        pass


def test_an_edit_must_keep_the_shape(gpt2):
    def narrow(resid, strength):
        return resid[:, :1]

    with pytest.raises(SteeringError, match=r"\(1, 3, 32\) into \(1, 1, 32\)"), \
            gpt2.hooked(Site(1), narrow, Positions.all(), 1.0):  # fmt: skip
        gpt2.logits("the cat")


def test_padding_and_special_tokens_are_not_steered(gpt2, add):
    batch = gpt2.tokens(TEXTS)
    bare = gpt2.cache(batch, [Site(1)])[Site(1)]
    with add.attach(gpt2, 1.0):
        moved = gpt2.cache(batch, [Site(1)])[Site(1)] - bare
    steered = batch.mask & ~batch.special
    torch.testing.assert_close(moved[steered], add.step.expand(int(steered.sum()), -1))
    assert not moved[~steered].any()


# Reading


def test_a_cache_equals_run_with_cache(tiny):
    sites = [Site(0, "attn_out"), Site(1, "mlp_out"), Site(1), Site(2, "resid_pre")]
    ids = torch.tensor([tiny.ids(TEXTS[0])])
    _, expected = tiny.wrapped.run_with_cache(ids)
    for site, stream in tiny.cache(TEXTS[0], sites).items():
        torch.testing.assert_close(stream, expected[site.hook], atol=1e-6, rtol=1e-5)


def test_layers_above_the_asked_ones_are_not_computed(gpt2):
    ran = []
    with gpt2.wrapped.hooks(
        fwd_hooks=[(Site(i).hook, lambda resid, hook: ran.append(hook.layer())) for i in range(3)]
    ):
        gpt2.cache("the cat", [Site(1)])
    assert ran == [0, 1]


def test_direction_files_go_from_one_run_to_another(gpt2, random_direction, tmp_path):
    made = Add(random_direction(Site(1), gpt2.d_model), Positions.all())
    read = Add(Direction.load(made.direction.save(tmp_path / "d.safetensors")), Positions.all())
    with made.attach(gpt2, 2.0):
        expected = gpt2.logits(TEXTS)
    with read.attach(gpt2, 2.0):
        assert torch.equal(gpt2.logits(TEXTS), expected)


def test_a_device_that_is_not_there_is_named_with_those_that_are():
    from steerlens.models.checkpoints import CheckpointError
    from steerlens.models.model import Model

    for device in ("cuda:99", "abacus"):
        with pytest.raises(CheckpointError, match=rf"{device}.*There is: cpu"):
            Model.load("reviews", device=device)


# Long texts


def test_texts_beyond_the_first_rotary_tables_are_read_and_continued():
    from steerlens.measures.generation import generated_tokens
    from steerlens.measures.reading import activations

    def long() -> Model:
        return Model(tiny_model("llama", n_layers=2, max_position_embeddings=4096))

    text = " ".join(["the cat sat on the bed and", "she said good food is here ."] * 165)
    assert 2048 < len(long().ids(text)) < 4096
    hooked = long()
    logits = hooked.logits(text)[0, -1]  # the hooked forward pass extends the tables
    new = generated_tokens(long(), [text], max_new_tokens=2, stop_at_eos=False)[0]
    assert int(new[0]) == int(logits.argmax())
    pairs = ContrastSet("long", (ContrastPair(text, " yes", " no"),))
    read = activations(long(), pairs, [Site(1)], progress=False)
    cached = hooked.cache(text + " yes", [Site(1)])[Site(1)][0, -1]
    torch.testing.assert_close(read.positive[0, 0], cached, atol=1e-4, rtol=1e-4)
