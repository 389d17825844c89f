"""Checkpoints: what is loaded computes what the source computes, and bad input says why."""

from __future__ import annotations

import json
import socket
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steerlens.models.checkpoints import (
    KNOWN_ARCHITECTURES,
    build_hooked,
    check_hooks,
    checkpoint_kind,
    fingerprint,
    folders,
    hooked_from_hf,
    load_hf_directory,
    load_hooked,
    load_hub,
    logit_difference,
    save_hooked,
    weights_processing,
    word_tokenizer,
)
from steerlens.models.checkpoints.families import FAMILIES as CONVERSIONS
from steerlens.models.checkpoints.hub import require_hub
from steerlens.testing import FAMILIES, tiny_bridge, tiny_hf, tiny_model

REAL = Path(__file__).parents[2] / "shared" / "models" / "real-reviews-gpt2"
TEXTS = ["the cat sat on the bed .", "she said yes"]

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def no_sockets(monkeypatch):
    """Any attempt to use the network fails the test, and says so."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was touched: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def random_states():
    # not python's own, from which the type checker of the tests draws
    return np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def hf_directory(folder: Path, family: str, **config) -> Path:
    model, tokenizer = tiny_hf(family, **config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Hugging Face to HookedTransformer


@every_family
def test_logits_equal_hugging_face_unpadded(family):
    hf_model, _ = tiny_hf(family)
    hooked = tiny_model(family)
    tokens = torch.randint(4, hooked.cfg.d_vocab, (3, 40), generator=torch.Generator())
    with torch.no_grad():
        ours = hooked(tokens, attention_mask=torch.ones_like(tokens))
        torch.testing.assert_close(ours, hf_model(tokens).logits, atol=1e-4, rtol=0)
        assert ours.std() > 0.5  # equal, and not because everything is near zero


@every_family
def test_logits_equal_hugging_face_left_padded(family):
    hf_model, tokenizer = tiny_hf(family, padding_side="left")
    hooked = tiny_model(family, padding_side="left")
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    tokens, mask = batch.input_ids, batch.attention_mask
    assert mask[1, 0] == 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        theirs = hf_model(tokens, attention_mask=mask, position_ids=positions).logits
        ours = hooked(tokens, attention_mask=mask)
        alone = hooked(tokens[1:, mask[1].bool()])
    shown = mask.bool()
    torch.testing.assert_close(ours[shown], theirs[shown], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours[1, shown[1]], alone[0], atol=1e-4, rtol=0)


@every_family
def test_a_local_directory_loads_without_network(family, tmp_path, no_sockets):
    folder = hf_directory(tmp_path / "my llama gemma", family, padding_side="left")
    loaded = load_hf_directory(folder)
    assert fingerprint(loaded) == fingerprint(tiny_model(family))
    assert loaded.tokenizer(TEXTS[0]).input_ids == tiny_model(family).tokenizer(TEXTS[0]).input_ids
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.cfg.model_name == "my llama gemma"
    assert weights_processing(loaded) == "raw"
    assert not loaded.training


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        ),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4, "head_dim": 16}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
        ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("neox", {"use_parallel_residual": False, "rotary_pct": 0.5}),
        ("gpt2", {"tie_word_embeddings": True, "activation_function": "relu"}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ],
)
def test_options_of_a_family_are_honoured(family, config):
    hf_model, tokenizer = tiny_hf(family, **config)
    for name, value in config.items():
        if name != "rotary_pct":
            assert getattr(hf_model.config, name) == value
    worst, largest = logit_difference(hooked_from_hf(hf_model, tokenizer, check=False), hf_model)
    assert worst < 1e-4
    assert largest > 1


def test_the_check_would_see_a_wrong_option():
    """Each option above changes the logits by far more than the tolerance."""
    usual = tiny_model("llama")
    tokens = torch.randint(4, 100, (1, 40), generator=torch.Generator())
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    other = tiny_model("llama", rope_parameters=rope)
    assert (usual(tokens) - other(tokens)).abs().max() > 0.1


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_the_check_refuses_a_model_that_differs(family, monkeypatch):
    hf_model, tokenizer = tiny_hf(family)
    architecture = type(hf_model).__name__
    fields, convert = CONVERSIONS[architecture]
    wrong = {"eps": 0.1} if family == "gpt2" else {"window_size": 7}
    monkeypatch.setitem(CONVERSIONS, architecture, (lambda c: fields(c) | wrong, convert))
    with pytest.raises(ValueError, match=r"logits differ by .* at most"):
        hooked_from_hf(hf_model, tokenizer)


def test_conversion_leaves_the_hugging_face_model_alone():
    hf_model, tokenizer = tiny_hf("gpt2")
    before = {k: v.clone() for k, v in hf_model.state_dict().items()}
    hooked = hooked_from_hf(hf_model, tokenizer)
    with torch.no_grad():
        for parameter in hooked.parameters():
            parameter.add_(1)
    for name, value in hf_model.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert hooked.tokenizer is not tokenizer


def test_a_float16_checkpoint_loads_as_float32(tmp_path):
    model, tokenizer = tiny_hf("llama")
    model.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_hf_directory(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.cfg.dtype == torch.float32


def test_a_checkpoint_loads_in_bfloat16(tmp_path):
    loaded = load_hf_directory(hf_directory(tmp_path / "m", "qwen2"), dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert check_hooks(loaded).worst < 0.05


def test_a_tokenizer_without_bos_is_kept_as_it_is(tmp_path):
    model, tokenizer = tiny_hf("gpt2")
    model.save_pretrained(tmp_path)
    word_tokenizer(["cat", "sat"], bos=False).save_pretrained(tmp_path)
    loaded = load_hf_directory(tmp_path)
    assert loaded.tokenizer("cat sat").input_ids == [4, 5]
    assert loaded.to_tokens("cat sat").tolist() == [[4, 5]]
    assert loaded.to_tokens("cat sat", prepend_bos=True).tolist() == [[2, 4, 5]]
    again = load_hooked(save_hooked(loaded, tmp_path / "ours"))
    assert again.tokenizer("cat sat").input_ids == [4, 5]


def test_the_real_checkpoint_equals_hugging_face():
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hooked = load_hf_directory(REAL)
    hf_model = AutoModelForCausalLM.from_pretrained(REAL, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(REAL)(
        "the food was amazing . the waitress was", return_tensors="pt"
    ).input_ids
    assert tokens[0, 0] == 1  # the tokenizer prepends <bos>
    torch.testing.assert_close(hooked.to_tokens("the food was amazing . the waitress was"), tokens)
    with torch.no_grad():
        torch.testing.assert_close(hooked(tokens), hf_model(tokens).logits, atol=1e-4, rtol=0)
    assert check_hooks(hooked).worst < 1e-5
    assert weights_processing(hooked) == "raw"


# Our own folders


@every_family
def test_save_and_load_is_bit_exact(family, tmp_path, no_sockets):
    model = tiny_model(family, padding_side="left")
    folder = save_hooked(model, tmp_path / "deep" / "model")
    assert checkpoint_kind(folder) == "hooked"
    loaded = load_hooked(folder)
    tokens = model.to_tokens(TEXTS)
    torch.testing.assert_close(loaded.to_tokens(TEXTS), tokens)
    torch.testing.assert_close(loaded(tokens), model(tokens), atol=0, rtol=0)
    assert fingerprint(loaded) == fingerprint(model)
    assert loaded.tokenizer.padding_side == "left"
    assert loaded.tokenizer.special_tokens_map == model.tokenizer.special_tokens_map


def test_only_parameters_are_stored(tmp_path):
    model = tiny_model("llama")
    folder = save_hooked(model, tmp_path / "m")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == {name for name, _ in model.named_parameters()}
    assert sorted(p.name for p in folder.iterdir()) == [
        "checksums.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert str(tmp_path) not in (folder / "config.json").read_text()


def test_storing_in_float16_halves_the_file_and_loads_as_float32(tmp_path):
    model = tiny_model("gpt2")
    whole = save_hooked(model, tmp_path / "a") / "model.safetensors"
    half = save_hooked(model, tmp_path / "b", dtype=torch.float16) / "model.safetensors"
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = load_hooked(tmp_path / "b")
    assert loaded.cfg.dtype == torch.float32
    torch.testing.assert_close(loaded.W_E, model.W_E.half().float(), atol=0, rtol=0)


def test_saving_again_replaces_the_older_checkpoint(tmp_path):
    save_hooked(tiny_model("gpt2", seed=1), tmp_path / "m")
    second = tiny_model("gpt2", seed=2)
    save_hooked(second, tmp_path / "m")
    assert fingerprint(load_hooked(tmp_path / "m")) == fingerprint(second)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_saving_never_deletes_other_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(FileExistsError, match="would delete"):
        save_hooked(tiny_model("gpt2"), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "three years"


def test_a_failed_save_leaves_the_old_checkpoint_and_no_litter(tmp_path, monkeypatch):
    first = tiny_model("gpt2")
    save_hooked(first, tmp_path / "m")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(folders, "save_tokenizer", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_hooked(tiny_model("gpt2", seed=2), tmp_path / "m")
    assert fingerprint(load_hooked(tmp_path / "m")) == fingerprint(first)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_models_without_tokenizer_and_planted_options_survive(tmp_path):
    config = {"n_layers": 2, "d_model": 16, "d_head": 4, "n_heads": 4, "n_ctx": 8, "d_vocab": 11}
    model = build_hooked({**config, "act_fn": "relu", "normalization_type": None})
    loaded = load_hooked(save_hooked(model, tmp_path / "m"))
    assert loaded.tokenizer is None
    assert fingerprint(loaded) == fingerprint(model)


def test_nothing_disturbs_the_random_state_or_prints(tmp_path, capfd):
    torch.manual_seed(5), np.random.seed(5)
    before = random_states()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = tiny_model("llama")
        model.cfg.seed = 3  # a stored seed would re-seed everything at load
        load_hooked(save_hooked(model, tmp_path / "ours"))
        build_hooked({"n_layers": 1, "d_model": 8, "d_head": 4, "n_ctx": 8, "d_vocab": 9,
                      "act_fn": "relu"}, seed=1)  # fmt: skip
        hf_model, tokenizer = tiny_hf("llama")
        tiny_bridge("llama")
        assert random_states() == before
        capfd.readouterr()
        hf_model.save_pretrained(tmp_path / "hf")
        tokenizer.save_pretrained(tmp_path / "hf")
        capfd.readouterr()
        torch.manual_seed(5), np.random.seed(5)
        load_hf_directory(tmp_path / "hf")
    assert random_states() == before
    assert capfd.readouterr() == ("", "")


def test_a_seed_decides_the_initial_weights():
    config = {"n_layers": 1, "d_model": 8, "d_head": 4, "n_ctx": 8, "d_vocab": 9, "act_fn": "relu"}
    assert fingerprint(build_hooked(config, seed=1)) == fingerprint(build_hooked(config, seed=1))
    assert fingerprint(build_hooked(config, seed=1)) != fingerprint(build_hooked(config, seed=2))


# Damaged and foreign input


def test_missing_folders_and_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_hooked(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load_hf_directory(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="is a file"):
        load_hooked(tmp_path / "file")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="adapter"):
        checkpoint_kind(tmp_path / "adapter")


def test_each_loader_points_to_the_other(tmp_path):
    ours = save_hooked(tiny_model("gpt2"), tmp_path / "ours")
    theirs = hf_directory(tmp_path / "theirs", "gpt2")
    assert checkpoint_kind(theirs) == "huggingface"
    with pytest.raises(ValueError, match="load_hooked"):
        load_hf_directory(ours)
    with pytest.raises(ValueError, match="load_hf_directory"):
        load_hooked(theirs)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1, 2]"])
def test_a_damaged_config_is_refused(tmp_path, content):
    folder = save_hooked(tiny_model("gpt2"), tmp_path / "m")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_hooked(folder)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_hf_directory(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_a_truncated_weights_file_is_refused(tmp_path, keep):
    for folder, load in (
        (save_hooked(tiny_model("gpt2"), tmp_path / "ours"), load_hooked),
        (hf_directory(tmp_path / "theirs", "gpt2"), load_hf_directory),
    ):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:keep])
        with pytest.raises(ValueError, match="again"):
            load(folder)


def test_damaged_tokenizer_files_are_refused(tmp_path):
    for folder, load in (
        (save_hooked(tiny_model("gpt2"), tmp_path / "ours"), load_hooked),
        (hf_directory(tmp_path / "theirs", "gpt2"), load_hf_directory),
    ):
        (folder / "tokenizer.json").write_text('{"version": 7}')
        with pytest.raises(ValueError, match="okenizer"):
            load(folder)


def test_config_and_weights_of_two_models_are_refused(tmp_path):
    folder = save_hooked(tiny_model("gpt2"), tmp_path / "m")
    (folder / "checksums.json").unlink()  # folders of older versions have none
    stored = json.loads((folder / "config.json").read_text())
    for field, value in (("n_layers", 10**9), ("d_vocab", 7), ("d_model", "32"), ("d_mlp", 9)):
        edited = stored | {"config": stored["config"] | {field: value}}
        (folder / "config.json").write_text(json.dumps(edited))
        with pytest.raises(ValueError, match=r"two models|do not fit"):
            load_hooked(folder)
    edited = stored | {"config": stored["config"] | {"warp": 9}}
    (folder / "config.json").write_text(json.dumps(edited))
    with pytest.raises(ValueError, match="warp"):
        load_hooked(folder)
    edit_json(folder / "config.json", version=2)
    with pytest.raises(ValueError, match="version 2"):
        load_hooked(folder)


def test_incomplete_hugging_face_weights_are_refused(tmp_path):
    """Hugging Face itself would fill them with random numbers."""
    folder = hf_directory(tmp_path / "m", "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"incomplete.*up_proj"):
        load_hf_directory(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BloomForCausalLM"]}, "TransformerBridge"),
        ({"architectures": ["GPT2Model"]}, "GPT2LMHeadModel"),
        ({"architectures": None, "model_type": "mamba"}, "MambaForCausalLM"),
        ({"architectures": None, "model_type": None}, "names no model"),
        ({"vision_config": {}}, "images"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"activation_function": "tanh"}, "tanh"),
    ],
)
def test_other_architectures_are_refused_with_what_is_known(tmp_path, changes, message):
    folder = hf_directory(tmp_path / "m", "gpt2")
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_hf_directory(folder)


def test_unknown_architectures_get_the_list():
    with pytest.raises(ValueError, match=", ".join(KNOWN_ARCHITECTURES)):
        hooked_from_hf(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("gpt2", {"add_cross_attention": True}),
        ("llama", {"attention_bias": True}),
        ("llama", {"mlp_bias": True}),
        ("neox", {"attention_bias": False}),
        ("gemma2", {"attention_bias": True}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
        ("mistral", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    ],
)
def test_options_that_the_converters_drop_are_refused(family, config):
    hf_model, tokenizer = tiny_hf(family, **config)
    with pytest.raises(ValueError, match="TransformerBridge"):
        hooked_from_hf(hf_model, tokenizer)


def test_weights_in_pickled_files_are_refused(tmp_path):
    folder = hf_directory(tmp_path / "m", "gpt2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="can run code"):
        load_hf_directory(folder)


def test_a_directory_without_tokenizer_says_what_to_do(tmp_path):
    model, tokenizer = tiny_hf("gpt2")
    model.save_pretrained(tmp_path)
    # Hugging Face itself would make an empty one.
    with pytest.raises(FileNotFoundError, match="pass tokenizer="):
        load_hf_directory(tmp_path)
    longer = word_tokenizer([f"w{i}" for i in range(200)])
    with pytest.raises(ValueError, match="204 tokens"):
        load_hf_directory(tmp_path, tokenizer=longer)
    assert load_hf_directory(tmp_path, tokenizer=tokenizer).tokenizer("cat").input_ids == (
        tokenizer("cat").input_ids
    )


def test_parameters_that_do_not_fit_are_named():
    model = tiny_model("gpt2")
    config = {"n_layers": 1, "d_model": 8, "d_head": 4, "n_ctx": 8, "d_vocab": 9, "act_fn": "relu"}
    with pytest.raises(ValueError, match=r"blocks\.1"):
        build_hooked(config, parameters=dict(model.named_parameters()))
    with pytest.raises(ValueError, match="swish"):
        build_hooked(config | {"act_fn": "swish"})


def test_only_a_hooked_transformer_can_be_saved(tmp_path):
    with pytest.raises(TypeError, match="TransformerBridge"):
        save_hooked(tiny_bridge("gpt2"), tmp_path / "m")


def test_repeated_or_spaced_words_are_refused():
    with pytest.raises(ValueError, match="cat"):
        word_tokenizer(["cat", "cat", "dog"])
    with pytest.raises(ValueError, match="two words"):
        word_tokenizer(["two words"])


# The hub


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_without_a_network_a_hub_name_fails(empty_cache, monkeypatch):
    def unreachable(*_, **__):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(ConnectionError, match=r"pythia-70m.*pass the folder"):
        load_hub("pythia-70m")


def test_a_network_that_does_not_answer_is_not_waited_for(empty_cache, monkeypatch):
    # Far longer than is waited here, and than any load of the processor could explain.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(600))
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="no answer in 1 s"):
        require_hub("somebody/something", seconds=1)
    assert time.monotonic() - started < 300


def test_offline_mode_is_obeyed(empty_cache, monkeypatch, no_sockets):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        load_hub("somebody/something")


def test_a_name_that_is_neither_is_refused(empty_cache, no_sockets):
    with pytest.raises(ValueError, match="neither a folder here nor a hub name"):
        load_hub("./runs/a b/my model")


def cached_repository(cache: Path) -> Path:
    """The folder of the only snapshot of somebody/something in a new hub cache."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = cache / "models--somebody--something"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    return repo / "snapshots" / commit


def test_a_cached_model_of_another_family_loads_as_a_bridge(empty_cache, no_sockets):
    import transformers
    from transformer_lens.model_bridge import TransformerBridge

    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.OPTConfig(**sizes, vocab_size=9, word_embed_proj_dim=16)
    hf_model = transformers.OPTForCausalLM(config).eval()
    folder = cached_repository(empty_cache)
    hf_model.save_pretrained(folder)
    word_tokenizer(["a", "b"]).save_pretrained(folder)
    loaded = load_hub("somebody/something")
    assert isinstance(loaded, TransformerBridge)
    tokens = torch.tensor([[2, 4, 5, 4]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens), hf_model(tokens).logits, atol=1e-4, rtol=0)
    (folder / "model.safetensors").unlink()  # half a download does not count
    with pytest.raises((ConnectionError, AssertionError)):
        load_hub("somebody/something")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_cached_hub_model_loads_without_network(family, empty_cache, no_sockets):
    hf_directory(cached_repository(empty_cache), family)
    loaded = load_hub("somebody/something")
    assert fingerprint(loaded) == fingerprint(tiny_model(family))
    assert loaded.cfg.model_name == "somebody/something"


# Facts about a model


@every_family
def test_one_changed_weight_changes_the_fingerprint(family):
    model = tiny_model(family)
    before = fingerprint(model)
    assert before == fingerprint(tiny_model(family))
    for _, parameter in list(model.named_parameters())[::5]:
        place = parameter.data.view(-1)
        old = place[-1].item()
        place[-1] = float(np.nextafter(np.float32(old), np.float32(9)))
        assert fingerprint(model) != before
        place[-1] = old
    assert fingerprint(model) == before


def test_exchanged_weights_change_the_fingerprint():
    model = tiny_model("gpt2")
    before = fingerprint(model)
    with torch.no_grad():
        model.W_E[[0, 1]] = model.W_E[[1, 0]]
    assert fingerprint(model) != before


def test_the_fingerprint_sees_config_and_dtype_but_not_circumstances():
    model = tiny_model("gemma2")
    before = fingerprint(model)
    model.cfg.seed, model.cfg.model_name, model.cfg.use_attn_result = 3, "mine", True
    model.requires_grad_(False)
    assert fingerprint(model) == before
    model.cfg.window_size = 5
    assert fingerprint(model) != before
    model.cfg.window_size = 4
    assert fingerprint(model.to(torch.bfloat16, print_details=False)) != before


def test_a_bridge_has_a_fingerprint_too():
    bridge = tiny_bridge("gpt2")
    before = fingerprint(bridge)
    assert before == fingerprint(tiny_bridge("gpt2")) != fingerprint(tiny_bridge("gpt2", seed=1))
    with torch.no_grad():
        next(bridge.parameters()).view(-1)[0] += 1
    assert fingerprint(bridge) != before


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen2"])
def test_weight_processing_is_recognised(family):
    raw = tiny_model(family)
    assert weights_processing(raw) == "raw"
    flags = dict.fromkeys(
        ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False
    )
    seen = {
        "fold_ln": "fold_ln",
        "center_unembed": "center_unembed",
        "center_writing_weights": "raw" if family in ("llama", "qwen2") else None,
        "fold_value_biases": "raw" if family == "llama" else None,
    }
    for flag, expected in seen.items():
        processed = tiny_model(family)
        processed.load_and_process_state_dict(raw.state_dict(), **(flags | {flag: True}))
        assert weights_processing(processed) == (expected or flag)
    everything = tiny_model(family)
    everything.load_and_process_state_dict(raw.state_dict(), **dict.fromkeys(flags, True))
    expected = [flag for flag in flags if seen[flag] != "raw"]
    assert weights_processing(everything) == "+".join(expected)


@every_family
def test_hooks_mean_what_they_say(family):
    assert check_hooks(tiny_model(family)).worst < 1e-5
    assert check_hooks(tiny_bridge(family)).worst < 1e-5


def test_hooks_that_lie_are_seen():
    model = tiny_model("gpt2")
    model.blocks[1].hook_mlp_out.add_hook(lambda t, hook: None, is_permanent=True)
    check_hooks(model)

    def lie(args, output):
        return output * 2

    model.blocks[1].register_forward_hook(lambda module, args, output: lie(args, output))
    with pytest.raises(ValueError, match="At layer 1"):
        check_hooks(model)


# The tiny models


@every_family
def test_tiny_models_are_deterministic_and_answer_to_edits(family):
    model = tiny_model(family)
    tokens = model.to_tokens(TEXTS[0])
    torch.testing.assert_close(model(tokens), tiny_model(family)(tokens), atol=0, rtol=0)
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    steered = model.run_with_hooks(
        tokens, fwd_hooks=[("blocks.1.hook_resid_pre", lambda t, hook: t + vector)]
    )
    assert (steered - model(tokens)).abs().mean() > 0.1


@every_family
def test_the_tiny_bridge_is_the_same_model(family):
    tokens = tiny_model(family).to_tokens(TEXTS[0])
    torch.testing.assert_close(
        tiny_bridge(family)(tokens), tiny_model(family)(tokens), atol=1e-4, rtol=0
    )


def test_unknown_families_are_refused():
    # ValueError, or jaxtyping's own error where annotations are checked
    with pytest.raises(Exception, match="qwen2"):
        tiny_model("bert")
