"""A damaged file of a checkpoint is refused by its name, and a text ends where the files say."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from steerlens.measures.generation import generated_tokens
from steerlens.models.checkpoints import CheckpointError, bridge_from_hf, hooked_from_hf
from steerlens.models.checkpoints import tokenizers as checkpoint_tokenizers
from steerlens.models.model import Model
from steerlens.testing import tiny_hf, tiny_model

BOM = b"\xef\xbb\xbf"
DAMAGES = {
    "byte order mark": lambda content: BOM + content,
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "latin-1": lambda content: content.replace(b"o", b"\xe4", 1),
    "list": lambda _: b"[]",
    "null": lambda _: b"null",
}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
damaged_json = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A Hugging Face folder with a chat template and generation settings of its own."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    model, tokenizer = tiny_hf("llama")
    tokenizer.chat_template = TEMPLATE
    model.generation_config.eos_token_id = [3, 4]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def change(path, damage):
    path.write_bytes(damage(path.read_bytes()))


def refused(folder, name):
    with pytest.raises(CheckpointError) as error:
        Model.load(folder)
    assert str(folder / name) in str(error.value)
    return str(error.value)


# Damaged files


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
)
@damaged_json
def test_a_damaged_file_is_named(folder, name, damage):
    change(folder / name, damage)
    refused(folder, name)


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tools.jinja"])
@pytest.mark.parametrize(
    ("damage", "why"),
    [("byte order mark", "byte order mark"), ("UTF-16", "not UTF-8"), ("latin-1", "not UTF-8")],
)
def test_a_damaged_chat_template_is_named(folder, name, damage, why):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(DAMAGES[damage](TEMPLATE.encode()))
    assert why in refused(folder, name)


def test_other_line_ends_are_no_damage(folder):
    for path in [*folder.glob("*.json"), *folder.glob("*.jinja")]:
        change(path, lambda content: content.replace(b"\n", b"\r\n"))
    model = Model.load(folder)
    assert model.end_ids == [3, 4]
    assert model.tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize("stated", ["3", [3, "4"], {"id": 3}, True, 3.0])
def test_an_end_that_is_no_token_is_refused(folder, stated):
    content = json.dumps({"eos_token_id": stated}).encode()
    change(folder / "generation_config.json", lambda _: content)
    assert "eos_token_id" in refused(folder, "generation_config.json")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@damaged_json
def test_a_damaged_tokenizer_of_our_own_folder_is_named(tmp_path, name, damage):
    folder = Model(tiny_model("gpt2")).save(tmp_path / "ours")
    (folder / "checksums.json").unlink()
    change(folder / name, damage)
    refused(folder, name)


def test_a_large_vocabulary_is_left_to_the_tokenizers_library(folder, monkeypatch):
    monkeypatch.setattr(checkpoint_tokenizers, "MOST_BYTES", 10)
    assert Model.load(folder).ids("the cat")
    change(folder / "tokenizer.json", DAMAGES["cut"])
    with pytest.raises(CheckpointError, match="No tokenizer could be read"):
        Model.load(folder)


@damaged_json
def test_a_damaged_config_of_an_sae_is_named(tmp_path, damage):
    pytest.importorskip("sae_lens", reason="needs the extra steerlens[sae]")
    from steerlens.saes import SAE, SAEError

    folder = tmp_path / "sae"
    SAE.load("reviews/3").save(folder)
    (folder / "checksums.json").unlink()  # as in a folder of sae_lens
    change(folder / "cfg.json", damage)
    with pytest.raises(SAEError) as error:
        SAE.load(folder)
    assert str(folder / "cfg.json") in str(error.value)


# Where a text ends


def made_to_write(model, row, token):
    """Changes the unembedding so that a token follows a row of tokens."""
    with torch.no_grad():
        state = model.model(row).last_hidden_state[0, -1]
        model.lm_head.weight[token] = 40 * state / state.norm() ** 2


def test_the_tokenizers_eos_ends_nothing_where_the_generation_config_names_another(tmp_path):
    hf_model, tokenizer = tiny_hf("llama")
    eos, turn = tokenizer.eos_token_id, 4
    row = torch.tensor([tokenizer("the cat sat")["input_ids"]])
    made_to_write(hf_model, row, eos)
    hf_model.generation_config.eos_token_id = turn
    theirs = hf_model.generate(
        row, attention_mask=torch.ones_like(row), max_new_tokens=4, do_sample=False
    )[0, row.shape[1] :]
    hf_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["_from_model_config"]
    model = Model.load(tmp_path)
    assert model.end_ids == [turn]
    assert generated_tokens(model, ["the cat sat"], max_new_tokens=4)[0].tolist() == theirs.tolist()
    assert theirs[0] == eos
    assert len(theirs) == 4
    for build in (hooked_from_hf, bridge_from_hf):
        assert Model(build(hf_model, tokenizer)).end_ids == [turn]


@pytest.mark.parametrize(
    ("generation", "ends"),
    [
        (None, [3, 4]),
        ({}, [3]),
        ({"eos_token_id": None}, [3]),
        ({"eos_token_id": 4}, [4]),
        ({"eos_token_id": [5, 4]}, [4, 5]),
        ({"eos_token_id": 4, "_from_model_config": True}, [4]),
        ({"eos_token_id": 10**6}, [3]),
    ],
)
def test_the_tokenizers_eos_ends_texts_only_where_the_generation_config_states_none(
    tmp_path, generation, ends
):
    hf_model, tokenizer = tiny_hf("llama", eos_token_id=4)
    assert tokenizer.eos_token_id == 3
    hf_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    path.unlink() if generation is None else path.write_text(json.dumps(generation))
    assert Model.load(tmp_path).end_ids == ends


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "lm_head": "output",
}


def write_gguf(path, **ends):
    """A tiny Llama with a tokenizer of single bytes; ids 0 to 4 are special."""
    gguf = pytest.importorskip("gguf", reason="needs the extra steerlens[gguf]")
    tokens = ["<s>", "<|endoftext|>", "<pad>", "<turn>", "<message>"]
    tokens += [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    hf_model, _ = tiny_hf("llama", vocab_size=len(tokens))
    c = hf_model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 5 else 1 for i in range(len(tokens))])
    writer.add_token_merges(["a b"])
    for name, token in {"bos": 0, "eos": 1, "padding": 2, **ends}.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    for name, weight in hf_model.state_dict().items():
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, np.ascontiguousarray(weight.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("stated", "ends"),
    [
        ({}, [1]),
        ({"eot": 3}, [1, 3]),
        ({"eot": 3, "eom": 4}, [1, 3, 4]),
        ({"eom": 2**32 - 1}, [1]),  # llama.cpp's "there is none"
    ],
)
def test_the_end_of_a_turn_that_a_gguf_file_names_ends_a_text(tmp_path, stated, ends):
    model = Model.load(write_gguf(tmp_path / "tiny.gguf", **stated))
    assert model.end_ids == ends
    assert Model.load(model.save(tmp_path / "ours")).end_ids == ends
