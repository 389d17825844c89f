"""The blocks of a bridge, one by one, give the numbers of whole forward passes, or are not used."""

from typing import Any

import pytest
import torch
import transformers

from steerlens.interventions import Together
from steerlens.measures.sweep import sweep
from steerlens.models.checkpoints import bridge_from_hf, word_tokenizer
from steerlens.models.model import Model
from steerlens.sites import Positions
from steerlens.testing import WORDS, tiny_bridge
from tests.grids import MULTIPLIERS, ONE_TOKEN, SEVERAL_TOKENS, every_edit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer"),
    pytest.mark.filterwarnings("ignore:At layer 0"),  # blocks with a third part
]
WINDOW = {"sliding_window": 6}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
KINDS = {
    "Gemma3Text": {**WINDOW, "query_pre_attn_scalar": 8, "head_dim": 8},
    "Qwen3Moe": {**EXPERTS, "head_dim": 8},
    "Olmo2": {},
    "Bloom": {"n_layer": 2, "n_head": 4},  # ALiBi: a row for each text and head
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    "GPTNeo": {"num_layers": 2, "num_heads": 4, "window_size": 6,
               "attention_types": [[["global", "local"], 1]]},
    "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},  # its cache differs
    "Lfm2": {"layer_types": ["conv", "full_attention"]},  # its cache holds more than keys
}  # fmt: skip


def random_bridge(kind):
    """A random model of an architecture whose every part matters."""
    tokenizer = word_tokenizer(WORDS)
    usual = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0,
        "initializer_range": 0.2,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")
    known = config().to_dict()
    given = {name: value for name, value in usual.items() if name in known} | KINDS[kind]
    torch.manual_seed(0)
    head = kind.removesuffix("Text")
    hf_model = getattr(transformers, f"{head}ForCausalLM")(config(**given)).eval()
    return Model(bridge_from_hf(hf_model, tokenizer))


def by_rows(model, pairs, arms):
    """The sweep with every cell as a row of whole texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "replay", lambda self: None)
        return sweep(model, pairs, arms, MULTIPLIERS, progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_equals_whole_texts(kind):
    """Padded prompts, one and several answer tokens, from the prompt's end and at all tokens."""
    model = random_bridge(kind)
    for pairs, positions in (
        (SEVERAL_TOKENS, Positions.from_prompt_end()),
        (ONE_TOKEN, Positions.all(special=True)),
    ):
        arms = every_edit(model, positions)
        swept = sweep(model, pairs, arms, MULTIPLIERS, progress=False)
        whole = by_rows(model, pairs, arms)
        assert (swept.plan.path, whole.plan.path) == ("replay", "rows")
        torch.testing.assert_close(swept.positive, whole.positive, atol=5e-5, rtol=1e-5)
        torch.testing.assert_close(swept.negative, whole.negative, atol=5e-5, rtol=1e-5)
        assert float((swept.log_odds[:5, 3] - swept.log_odds[:5, 1]).abs().min()) > 1e-4


def test_only_columns_that_differ_are_run_where_the_cache_can_hold_the_rest():
    counted = {}
    for kind in ("Gemma3Text", "Mpt"):
        model = random_bridge(kind)
        plan = sweep(model, ONE_TOKEN, every_edit(model, Positions.from_prompt_end()), (1.0,)).plan
        counted[kind] = plan.paths[0].columns
    assert counted == {"Gemma3Text": 1, "Mpt": 10}


def test_several_edits_and_little_memory(tiny_bridge_model):
    model = tiny_bridge_model
    edits = every_edit(model, Positions.all())
    arms = [Together((edits[0], edits[3])), *edits]
    swept = sweep(model, SEVERAL_TOKENS, arms, MULTIPLIERS, progress=False)
    pieces = sweep(model, SEVERAL_TOKENS, arms, MULTIPLIERS, progress=False, memory=200_000)
    assert pieces.plan.is_cut and swept.plan.path == pieces.plan.path == "replay"
    torch.testing.assert_close(pieces.log_odds, swept.log_odds, atol=3e-5, rtol=1e-5)
    whole = by_rows(model, SEVERAL_TOKENS, arms)
    torch.testing.assert_close(swept.log_odds, whole.log_odds, atol=5e-5, rtol=1e-5)


def test_a_hook_of_the_users_own_counts():
    model = Model(tiny_bridge("llama"))
    edits = every_edit(model, Positions.from_prompt_end())
    before = sweep(model, ONE_TOKEN, edits, MULTIPLIERS, progress=False)
    model.wrapped.add_hook("blocks.1.mlp.hook_out", lambda out, hook: 2 * out)
    after = sweep(model, ONE_TOKEN, edits, MULTIPLIERS, progress=False)
    assert (before.plan.path, after.plan.path) == ("replay", "rows")
    assert float((before.log_odds - after.log_odds).abs().max()) > 1e-3


def test_a_model_that_tells_its_blocks_more_than_their_arguments_is_run_whole():
    bridge = tiny_bridge("llama")
    inner: Any = bridge.original_model.model
    seen = {}
    inner.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(texts=len(kwargs["input_ids"])), with_kwargs=True
    )
    block = inner.layers[1].original_component
    block.register_forward_hook(lambda module, args, out: out + (seen["texts"] == 5))
    model = Model(bridge)
    edits = every_edit(model, Positions.from_prompt_end())
    with pytest.warns(UserWarning, match="replay differs from its own forward pass by"):
        swept = sweep(model, ONE_TOKEN, edits, MULTIPLIERS, progress=False)
    assert swept.plan.path.startswith("rows")
