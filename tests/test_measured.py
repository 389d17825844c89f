"""A wrapped model is measured: its read-out, padding and cache are its own, or they are refused."""

from __future__ import annotations

import pytest
import torch
import transformers

from steerlens.data import ContrastPair
from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.direct_gain import direct_gain
from steerlens.measures.divergence import divergence
from steerlens.measures.generation import generated_tokens
from steerlens.measures.screen import screen
from steerlens.measures.surprisal import surprisal
from steerlens.measures.sweep import sweep
from steerlens.models.attached import SteeringError
from steerlens.models.checkpoints import CheckpointError, bridge_from_hf, word_tokenizer
from steerlens.models.measured import measured
from steerlens.models.model import Model
from steerlens.models.readout import ReadoutError
from steerlens.models.wrapped_state import GradientError, differentiable
from steerlens.sites import Positions, Site
from steerlens.testing import WORDS, tiny_bridge, tiny_hf, tiny_model

MAMBA = {
    "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
    "mamba_n_groups": 1,
}  # fmt: skip
TEXTS = ["the cat sat on the bed and ran", "you like"]


def random_hf(kind: str, **config):
    """A random model of an architecture, large enough in its weights that every part matters."""
    tokenizer = word_tokenizer(WORDS)
    usual = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
        "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(**{**usual, **config})
    return getattr(transformers, f"{kind}ForCausalLM")(made).eval(), tokenizer


def log_odds(hf_model, model: Model, pair: ContrastPair) -> float:
    def log_p(answer: str) -> float:
        prompt, ids = model.split(pair.prompt, answer)
        with torch.no_grad():
            logits = hf_model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        return sum(float(logits[len(prompt) - 1 + i, t]) for i, t in enumerate(ids))

    return log_p(pair.positive) - log_p(pair.negative)


# Read-out


@pytest.mark.filterwarnings("ignore:At layer 0")  # FalconH1's blocks have a third part
@pytest.mark.parametrize(
    ("kind", "config", "scale"),
    [
        ("Granite", {"logits_scaling": 8.0}, 1 / 8),
        ("FalconH1", {"lm_head_multiplier": 0.25, "head_dim": 8, **MAMBA}, 0.25),
        ("Qwen3", {"head_dim": 8}, 1.0),
        (
            "Gemma3",
            {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
            1.0,
        ),
    ],
)
def test_logits_of_a_bridge_are_its_own_scaled_or_capped(kind, config, scale):
    hf_model, tokenizer = random_hf(kind, **config) if kind != "Gemma3" else gemma3(config)
    model = Model(bridge_from_hf(hf_model, tokenizer))
    assert measured(model.wrapped).logit_scale == scale
    ids = torch.tensor([model.ids(TEXTS[0])])
    with torch.no_grad():
        torch.testing.assert_close(model.logits(TEXTS[0]), hf_model(ids).logits, atol=1e-4, rtol=0)
    pair = ContrastPair("I think that the soup was", " good", " bad")
    edit = Add(Direction(torch.ones(32), Site(1), resid_norm=1.0, processing="raw"))
    swept = sweep(model, [pair], [edit], [0.0], progress=False)
    assert float(swept.log_odds[0, 0, 0]) == pytest.approx(
        log_odds(hf_model, model, pair), abs=1e-4
    )


def test_a_bridge_that_computes_something_else_is_refused():
    """TransformerLens 3.9 turns the rotary pairs of Cohere as Llama's, which are others."""
    hf_model, tokenizer = random_hf("Cohere", logit_scale=0.25)
    with pytest.raises(CheckpointError, match="does not compute what Hugging Face's computes"):
        bridge_from_hf(hf_model, tokenizer)


def gemma3(config):
    hf_model, tokenizer = tiny_hf("gpt2")
    text = transformers.Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.2, sliding_window=16, **config,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.Gemma3ForCausalLM(text).eval(), tokenizer


def test_a_readout_that_is_not_known_is_refused_and_activations_are_read():
    bridge = tiny_bridge("llama")
    bridge.original_model.lm_head.register_forward_hook(lambda module, args, out: out + out**2)
    model = Model(bridge)
    with pytest.raises(ReadoutError, match="its own logits differ by up to"):
        model.logits("the cat")
    model.cache("the cat", [Site(0)])


PROJECTED = {
    "logits": lambda model, pairs, add: model.logits("the cat"),
    "token effects": lambda model, pairs, add: model.token_effects(add.direction.vector),
    "sweep": lambda model, pairs, add: sweep(model, pairs, [add], [0.0, 1.0], progress=False),
    "cost": lambda model, pairs, add: divergence(model, TEXTS[:1], [add], [1.0], progress=False),
    "screen": lambda model, pairs, add: screen(model, pairs, [add], progress=False),
    "direct gain": lambda model, pairs, add: direct_gain(
        model, pairs, [add], [1.0], progress=False
    ),
    "surprisal": lambda model, pairs, add: surprisal(model, ["the cat"], torch.tensor([[[4, 5]]])),
}


@pytest.fixture(scope="module")
def projected():
    """As in OPT-350m, another product stands between the last stream and the unembedding."""
    hf_model, tokenizer = random_hf("OPT", word_embed_proj_dim=16, ffn_dim=64)
    return Model(bridge_from_hf(hf_model, tokenizer, name="projected"))


@pytest.mark.filterwarnings("ignore:.*one by one")
@pytest.mark.parametrize("name", PROJECTED)
def test_a_readout_of_another_width_is_refused_before_it_is_tried(
    projected, random_direction, name
):
    direction = random_direction(Site(0), 32)
    pairs = [ContrastPair("the cat sat on", " the bed", " the dog")]
    with pytest.raises(ReadoutError, match="cannot be computed from its last stream"):
        PROJECTED[name](projected, pairs, Add(direction))
    assert generated_tokens(projected, TEXTS, max_new_tokens=2).shape == (2, 2)


def test_a_readout_of_a_hooked_transformer_that_does_more_is_refused():
    hooked = tiny_model("gpt2")
    hooked.unembed.register_forward_hook(lambda module, args, out: out * 3)
    with pytest.raises(ReadoutError, match="differ"):
        Model(hooked).logits("the cat")


@pytest.mark.parametrize("build", [tiny_model, tiny_bridge])
def test_half_precision_is_read_out(build):
    model = Model(build("llama").to(torch.bfloat16))
    assert measured(model.wrapped).readout_differs == ""
    assert torch.isfinite(model.logits(TEXTS)).all()


def test_hooks_on_the_model_do_not_disturb_the_measuring():
    bridge = tiny_bridge("gpt2")
    calls = []
    bridge.add_hook("blocks.1.hook_resid_post", lambda t, hook: calls.append(1))
    model = Model(bridge)
    assert not calls
    model.logits("the cat")
    assert len(calls) == 1


# Padding and the cache


@pytest.mark.parametrize("kind", ["Mpt", "Bloom", "Qwen3", "Opt"])
def test_decoding_writes_what_the_uncached_model_writes(kind):
    tokenizer = word_tokenizer(WORDS)
    size = {"vocab_size": len(tokenizer), "initializer_range": 0.2}
    torch.manual_seed(0)
    if kind == "Mpt":
        config = transformers.MptConfig(**size, d_model=32, n_layers=2, n_heads=4, max_seq_len=64)
    elif kind == "Bloom":
        config = transformers.BloomConfig(**size, hidden_size=32, n_layer=2, n_head=4)
    elif kind == "Opt":
        config = transformers.OPTConfig(
            vocab_size=len(tokenizer), hidden_size=32, ffn_dim=64, num_hidden_layers=2,
            num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=64, init_std=0.2,
        )  # fmt: skip
    else:
        config = random_hf("Qwen3", head_dim=8)[0].config
    kind = "OPT" if kind == "Opt" else kind
    hf_model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    model = Model(bridge_from_hf(hf_model, tokenizer))
    row = model.ids(TEXTS[0])
    with torch.no_grad():
        for _ in range(6):
            row.append(int(hf_model(torch.tensor([row])).logits[0, -1].argmax()))
    options = {"max_new_tokens": 6, "stop_at_eos": False}
    for use_cache in (True, False):
        new = generated_tokens(model, [TEXTS[0]], use_cache=use_cache, **options)
        assert new[0].tolist() == row[-6:]
    if measured(model.wrapped).pads:
        both = generated_tokens(model, TEXTS, **options)
        assert both[0].tolist() == row[-6:]
    else:
        with pytest.raises(ValueError, match="does not read positions from the attention mask"):
            generated_tokens(model, TEXTS, **options)


def test_a_cache_that_gives_other_numbers_is_not_used(monkeypatch):
    bridge = tiny_bridge("llama")
    real = bridge.forward

    def forward(tokens, *args, **options):
        past = options.get("past_key_values")
        out = real(tokens, *args, **options)
        return (out[0] * 2, out[1]) if past is not None else out

    monkeypatch.setattr(bridge, "forward", forward)
    model = Model(bridge)
    assert not model.forward.caches
    options = {"max_new_tokens": 4, "stop_at_eos": False}
    new = generated_tokens(model, TEXTS, **options)
    assert torch.equal(new, generated_tokens(model, TEXTS, use_cache=False, **options))


# States of the wrapped model


def test_dropout_is_off_while_a_model_runs_and_its_flags_are_kept():
    hf_model, tokenizer = tiny_hf("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    bridge = bridge_from_hf(hf_model, tokenizer)
    expected = Model(bridge).logits("the cat")
    bridge.train()
    bridge.original_model.train()
    model = Model(bridge)
    assert torch.equal(model.logits("the cat"), expected)
    assert torch.equal(
        model.cache("the cat", [Site(1)])[Site(1)], model.cache("the cat", [Site(1)])[Site(1)]
    )
    assert bridge.training and bridge.original_model.training


def test_weights_that_are_processed_after_wrapping_are_noticed():
    hooked = tiny_model("gpt2")
    model = Model(hooked)
    assert model.processing == "raw"
    before = model.logits("the cat").log_softmax(-1)
    hooked.load_and_process_state_dict(
        tiny_model("gpt2").state_dict(), fold_ln=True, center_writing_weights=False,
        center_unembed=False, fold_value_biases=False,
    )  # fmt: skip
    assert model.processing == "fold_ln"
    torch.testing.assert_close(model.logits("the cat").log_softmax(-1), before, atol=1e-4, rtol=0)


def test_a_bridge_that_is_processed_after_wrapping_is_measured_again():
    bridge = tiny_bridge("llama")
    model = Model(bridge)
    before = model.logits("the cat").log_softmax(-1)
    bridge.enable_compatibility_mode()
    assert model.processing == "bridge_compatibility"
    torch.testing.assert_close(model.logits("the cat").log_softmax(-1), before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("build", [tiny_model, tiny_bridge])
def test_hooks_that_are_reset_under_steering_are_noticed(build, random_direction):
    model = Model(build("llama"))
    steering = Add(random_direction(Site(1), 32), Positions.all())
    with pytest.raises(SteeringError, match="was removed inside the `with`"), \
            steering.attach(model, 1.0):  # fmt: skip
        model.logits("the cat")
        model.wrapped.reset_hooks()
        model.logits("the cat")


def test_gradients_pass_whatever_the_mode_and_flags_are_restored():
    model = Model(tiny_model("gpt2"))
    first, *others = model.wrapped.parameters()
    for weight in others:
        weight.requires_grad_(False)
    with torch.inference_mode(), differentiable(model.wrapped):
        leaf = torch.ones(2, requires_grad=True)
        (leaf * 2).sum().backward()
    assert leaf.grad is not None
    assert first.requires_grad and not any(weight.requires_grad for weight in others)


def test_weights_made_in_inference_mode_are_refused_for_gradients():
    import copy

    hooked = tiny_model("gpt2")
    with torch.inference_mode():
        inside = copy.deepcopy(hooked)
    Model(inside).logits("the cat")
    with pytest.raises(GradientError, match="made under torch.inference_mode"), \
            differentiable(inside):  # fmt: skip
        pass


def test_a_model_that_is_built_in_inference_mode_can_be_differentiated():
    from steerlens.models.checkpoints import hooked_from_hf

    hf_model, tokenizer = tiny_hf("gpt2")
    with torch.inference_mode():
        hooked = hooked_from_hf(hf_model, tokenizer)
    with differentiable(hooked):
        pass
