"""Facts of texts come from the checkpoint: their start, their end, special tokens, the first blank."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from steerlens.measures.generation import generate, generated_tokens
from steerlens.models.checkpoints import bridge_from_hf, hooked_from_hf, word_tokenizer
from steerlens.models.model import Model
from steerlens.sites import Positions
from steerlens.testing import WORDS, tiny_hf, tiny_model


def words(special=(), *, bos="<bos>", eos="<eos>", adds=()):
    """A word-level tokenizer with the given special tokens, which puts some in front of a text."""
    named = [t for t in ("<pad>", "<unk>", bos, eos) if t]
    tokens = dict.fromkeys([*named, *special, *WORDS])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(list(special))
    if adds:
        core.post_processor = processors.TemplateProcessing(
            single=" ".join([*adds, "$A"]), special_tokens=[(t, vocabulary[t]) for t in adds]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token=bos, eos_token=eos
    )


def saved(folder, family="llama", tokenizer=None, **generation):
    """A tiny Hugging Face folder with a tokenizer and generation settings."""
    model, usual = tiny_hf(family)
    tokenizer = tokenizer or usual
    config = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    model, _ = tiny_hf(family, **config)
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
        model.generation_config._from_model_config = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


# What a text starts with


@pytest.mark.parametrize(
    ("tokenizer", "starts"),
    [
        (words(adds=("<bos>",)), ["<bos>"]),
        (words(), []),
        (words(bos=None), []),
        (words(["<|im_start|>"], bos="<|im_start|>"), []),
        (words(["<a>", "<b>"], adds=("<a>", "<b>")), ["<a>", "<b>"]),
    ],
    ids=["adds BOS", "has BOS and adds none", "has no BOS", "a marker named BOS", "adds two"],
)
@pytest.mark.parametrize("build", [hooked_from_hf, bridge_from_hf])
def test_a_text_starts_as_the_checkpoints_tokenizer_has_it(tokenizer, starts, build):
    hf_model, _ = tiny_hf("llama", vocab_size=len(tokenizer))
    model = Model(build(hf_model, tokenizer))
    ids = model.ids("the cat")
    assert ids == tokenizer("the cat")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[:-2]) == starts


def test_gpt2_texts_start_with_its_separator_as_in_transformer_lens(tmp_path):
    tokenizer = words(["<|endoftext|>"], bos="<|endoftext|>", eos="<|endoftext|>")
    for family, starts in (("gpt2", True), ("neox", False)):
        saved(tmp_path / family, family, tokenizer)
        model = Model.load(tmp_path / family)
        assert model.prepend_bos is starts
        assert (model.ids("the cat")[0] == tokenizer.bos_token_id) is starts


@pytest.mark.parametrize(
    ("family", "stated", "starts"),
    [
        ("llama", {}, True),
        ("mistral", {}, True),
        ("llama", {"add_bos_token": False}, False),
        ("qwen2", {}, False),
    ],
)
def test_llamas_sentencepiece_texts_start_with_its_bos(tmp_path, family, stated, starts):
    tokenizer = metaspace()
    saved(tmp_path / "m", family, tokenizer)
    config = tmp_path / "m" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | stated))
    model = Model.load(tmp_path / "m")
    lead = [tokenizer.bos_token_id] if starts else []
    assert model.ids("the cat") == [*lead, *tokenizer("the cat")["input_ids"]]


def test_what_a_text_starts_with_can_be_chosen(tmp_path):
    saved(tmp_path / "m", tokenizer=words())
    assert Model.load(tmp_path / "m").facts["bos"] is False
    model = Model.load(tmp_path / "m", prepend_bos=True)
    assert model.ids("the cat")[0] == model.tokenizer.bos_token_id
    assert model.facts["bos"] is True
    again = Model.load(model, prepend_bos=False)
    assert again.ids("the cat") == model.ids("the cat")[1:]
    assert again.wrapped is model.wrapped


def test_a_bos_that_is_not_there_is_refused_and_eos_does_not_stand_in(tmp_path):
    saved(tmp_path / "m", tokenizer=words(bos=None))
    assert Model.load(tmp_path / "m").tokenizer.bos_token is None
    with pytest.raises(ValueError, match="has no BOS token, and no other token can stand in"):
        Model.load(tmp_path / "m", prepend_bos=True)


@pytest.mark.parametrize("starts", [True, False])
def test_a_users_own_model_keeps_its_default(starts):
    hooked = tiny_model("llama")
    hooked.cfg.default_prepend_bos = starts
    assert Model(hooked).prepend_bos is starts


def test_the_start_survives_saving(tmp_path):
    saved(tmp_path / "m", tokenizer=words())
    again = Model.load(Model.load(tmp_path / "m").save(tmp_path / "ours"))
    assert again.ids("the cat") == words()("the cat")["input_ids"]


# Where a text ends


@pytest.mark.parametrize("build", [hooked_from_hf, bridge_from_hf])
def test_all_ids_of_the_generation_config_end_a_text(tmp_path, build):
    tokenizer = words(["<end>"], adds=("<bos>",))
    end = tokenizer.convert_tokens_to_ids("<end>")
    hf_model = saved(
        tmp_path / "m", tokenizer=tokenizer, eos_token_id=[tokenizer.eos_token_id, end]
    )
    with torch.no_grad():
        row = torch.tensor([tokenizer("the cat sat")["input_ids"]])
        state = hf_model(row, output_hidden_states=True).hidden_states[-1][0, -1]
        hf_model.lm_head.weight[end] = 40 * state / state.norm() ** 2
        theirs = hf_model.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=8, do_sample=False
        )[0, row.shape[1] :]
    model = Model(build(hf_model, tokenizer))
    assert model.end_ids == [tokenizer.eos_token_id, end]
    assert generated_tokens(model, ["the cat sat"], max_new_tokens=8)[0].tolist() == theirs.tolist()
    assert theirs.tolist() == [end]


def test_the_ends_are_loaded_and_survive_saving(tmp_path):
    saved(tmp_path / "m", tokenizer=words(["<end>"]), eos_token_id=[3, 4])
    model = Model.load(tmp_path / "m")
    assert model.end_ids == [3, 4]
    assert Model.load(model.save(tmp_path / "ours")).end_ids == [3, 4]


def test_without_a_generation_config_the_eos_ends_a_text(gpt2):
    assert gpt2.end_ids == [gpt2.tokenizer.eos_token_id]


# Which tokens are special


def test_markers_without_a_name_are_special_and_not_steered(tmp_path):
    markers = ["<|header|>", "<|turn|>"]
    tokenizer = words(markers, adds=("<bos>",))
    saved(tmp_path / "m", tokenizer=tokenizer)
    model = Model.load(tmp_path / "m")
    assert set(tokenizer.convert_tokens_to_ids(markers)) <= set(model.special_ids)
    batch = model.tokens(["<|header|> the cat <|turn|> sat"])
    steered = Positions.all().mask(batch)[0]
    assert steered.tolist() == [False, False, True, True, False, True]
    assert Positions.all(special=True).mask(batch).all()


def test_markers_that_a_template_writes_are_special_without_the_flag(gpt2):
    tokenizer = copy.deepcopy(gpt2.tokenizer)
    names = ["<|turn|>", "[INST]", "<|unused|>", "user", "--"]
    tokenizer.add_tokens(names)
    hooked = tiny_model("gpt2", words=[*WORDS, *names])
    hooked.tokenizer = tokenizer
    turn, inst, unused, word, dashes = tokenizer.convert_tokens_to_ids(names)
    assert not {turn, inst, unused, word, dashes} & set(Model(hooked).special_ids)
    tokenizer.chat_template = (
        "{% for m in messages %}<|turn|>user [INST] -- {{m.content}}{% endfor %}"
    )
    model = Model(hooked)
    assert {turn, inst} == {turn, inst, unused, word, dashes} & set(model.special_ids)
    batch = model.tokens(["<|turn|> the cat [INST] sat user"])
    special = batch.special[0] & (batch.tokens[0] != tokenizer.bos_token_id)
    assert set(batch.tokens[0][special].tolist()) == {turn, inst}


def test_tokens_that_are_added_later_are_known(gpt2):
    tokenizer = copy.deepcopy(gpt2.tokenizer)
    hooked = tiny_model("gpt2")
    hooked.tokenizer = tokenizer
    before = Model(hooked).special_ids
    tokenizer.add_tokens(["<new>"], special_tokens=True)
    assert set(Model(hooked).special_ids) - set(before) == {
        tokenizer.convert_tokens_to_ids("<new>")
    }


# How a text goes on


def metaspace():
    """As in SentencePiece: a word starts with its blank, and the first decoded one loses it."""
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("<pad>", 0.0), ("▁", -6.0)]
    pieces += [(f"▁{w}", -3.0) for w in WORDS if len(w) > 1]
    pieces += [(c, -8.0) for c in "abcdefghijklmnopqrstuvwxyzABICQ.,?!():"]
    core = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>",
    )  # fmt: skip


@pytest.mark.parametrize(
    "tokenizer", [metaspace(), word_tokenizer(WORDS)], ids=["blanks in tokens", "words"]
)
def test_a_prompt_and_its_continuation_join_to_the_whole_text(tmp_path, tokenizer):
    saved(tmp_path / "m", tokenizer=tokenizer)
    model = Model.load(tmp_path / "m")
    prompts = ["the cat", "the cat sat on the bed", "she"]
    options = {"max_new_tokens": 4, "stop_at_eos": False}
    new = generated_tokens(model, prompts, **options)
    texts = generate(model, prompts, **options)
    for prompt, row, text in zip(prompts, new.tolist(), texts, strict=True):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert prompt + text == tokenizer.decode([*ids, *row], skip_special_tokens=True)
        assert prompt + text == tokenizer.decode(
            [*model.ids(prompt), *row], skip_special_tokens=True
        )
    assert any(text.startswith(" ") for text in texts)


def test_a_text_far_longer_than_the_context_is_refused_unread(gpt2):
    with pytest.raises(ValueError, match="1,000,000 characters, far more than .* 64 tokens"):
        gpt2.ids("cat " * 250_000)
