"""PEFT folders in and out, held to a Hugging Face model with the adapter merged by hand."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from steerlens.forms import LoRA, VectorForm
from steerlens.interventions import load_peft, save_peft
from steerlens.interventions.peft_folder import PEFTError
from steerlens.models.checkpoints import hooked_from_hf
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.store.files import DamagedFile
from steerlens.testing import TEXTS, tiny_hf
from tests.kinds import moved

PROMPTS = [prompt for prompt, _ in TEXTS]
FAMILIES = ("gpt2", "neox", "llama", "qwen2", "gemma2")
LINEAR = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "neox": ("query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
}
LLAMA_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")


def pair(family):
    hf, tokenizer = tiny_hf(family, n_layers=2, d_model=32 if family == "neox" else 16)
    return hf, Model(hooked_from_hf(hf, tokenizer, check=False, name=f"tiny-{family}"))


def folder_of(path, hf, family, *, rank=2, alpha=6, std=0.3, **config):
    """A PEFT folder with random factors for every linear map of the blocks."""
    generator = torch.Generator().manual_seed(0)
    conv = family == "gpt2"
    tensors = {}
    for name, module in hf.named_modules():
        if name.endswith(LINEAR.get(family, LLAMA_LINEAR)):
            reads, writes = module.weight.shape if conv else module.weight.shape[::-1]
            for factor, shape in (("A", (rank, reads)), ("B", (writes, rank))):
                tensors[f"base_model.model.{name}.lora_{factor}.weight"] = std * torch.randn(
                    shape, generator=generator
                )
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors", {"format": "pt"})
    stated = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "fan_in_fan_out": conv}
    stated |= {"target_modules": list(LINEAR.get(family, LLAMA_LINEAR)), "bias": "none", **config}
    (path / "adapter_config.json").write_text(json.dumps(stated))
    return path


@torch.no_grad()
def merge(hf, folder, scale):
    """Merges a PEFT folder into a Hugging Face model by the formula W + scale · B A."""
    tensors = load_file(folder / "adapter_model.safetensors")
    modules = dict(hf.named_modules())
    for key, a in tensors.items():
        if ".lora_A." in key:
            b = tensors[key.replace("lora_A", "lora_B")]
            module = modules[key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
            delta = scale * b @ a
            module.weight += delta.T if type(module).__name__ == "Conv1D" else delta


def hf_logits(hf, model):
    batch = model.tokens(PROMPTS)
    with torch.no_grad():
        logits = hf(
            batch.tokens, attention_mask=batch.mask.long(), position_ids=batch.positions
        ).logits
    return logits[batch.mask], batch.mask


@pytest.mark.parametrize("family", FAMILIES)
def test_a_peft_folder_is_the_merged_model(tmp_path, family):
    hf, model = pair(family)
    folder = folder_of(tmp_path / "lora", hf, family)
    lora = load_peft(folder, model)
    merge(hf, folder, 6 / 2)
    expected, real = hf_logits(hf, model)
    before = model.logits(PROMPTS)[real]
    with lora.attach(model, 1.0):
        found = model.logits(PROMPTS)[real]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((found - before).abs().max()) > 0.1


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_a_lora_goes_out_and_comes_in_again(tmp_path, family):
    hf, model = pair(family)
    targets = ("q", "v", "o", "in", "down")
    form = LoRA(rank=2, targets=targets, alpha=4.0, layers=(1,) if family == "llama" else None)
    lora = form.intervention(model, moved(form, model, std=0.3))
    folder = save_peft(tmp_path / "out", model, lora)
    again = load_peft(folder, model)
    with lora.attach(model, 1.0):
        expected = model.logits(PROMPTS)
    with again.attach(model, 1.0):
        torch.testing.assert_close(model.logits(PROMPTS), expected, atol=1e-5, rtol=1e-4)
    # And Hugging Face's model with the folder merged says the same.
    merge(hf, folder, 1.0)
    theirs, real = hf_logits(hf, model)
    torch.testing.assert_close(theirs, expected[real], atol=1e-4, rtol=1e-4)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] == (family == "gpt2")
    fused = {"gpt2": 4, "neox": 4}.get(family, 2)  # queries and values share one map there
    assert max(config["rank_pattern"].values(), default=config["r"]) <= config["r"] == fused


def test_patterns_and_the_root_of_the_rank(tmp_path):
    hf, model = pair("llama")
    plain = load_peft(folder_of(tmp_path / "a", hf, "llama", alpha=2), model)
    half = load_peft(
        folder_of(tmp_path / "b", hf, "llama", alpha_pattern={"q_proj": 1}, alpha=2), model
    )
    for one, other in zip(plain.changes(model), half.changes(model), strict=True):
        factor = 2.0 if one.name.endswith("W_Q") else 1.0
        torch.testing.assert_close(one.delta.b, factor * other.delta.b)
    root = load_peft(folder_of(tmp_path / "c", hf, "llama", alpha=2, use_rslora=True), model)
    torch.testing.assert_close(
        root.changes(model)[0].delta.b, 2**0.5 * plain.changes(model)[0].delta.b
    )


def processed(model, **options):
    """The model with some weight processing of TransformerLens."""
    wrapped = copy.deepcopy(model.wrapped)
    off = dict.fromkeys(
        ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False
    )
    wrapped.load_and_process_state_dict(wrapped.state_dict(), **{**off, **options})
    return Model(wrapped, model.name)


def only(folder, *ends):
    """Keeps of a folder the factors of some modules."""
    path = folder / "adapter_model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if any(f"{end}.lora" in k for end in ends)}
    save_file(kept, path, {"format": "pt"})
    return folder


def test_weights_that_write_are_exact_after_centring_and_folding(tmp_path):
    hf, model = pair("gpt2")
    folder = only(folder_of(tmp_path / "lora", hf, "gpt2"), "mlp.c_proj", "attn.c_proj")
    centred = processed(model, fold_ln=True, center_writing_weights=True, center_unembed=True)
    lora = load_peft(folder, centred)
    merge(hf, folder, 3.0)
    expected, real = hf_logits(hf, model)
    with lora.attach(centred, 1.0):
        found = centred.logits(PROMPTS)[real]
    torch.testing.assert_close(
        found.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=1e-4
    )


def test_what_processing_has_lost_is_refused(tmp_path):
    hf, model = pair("gpt2")
    folder = folder_of(tmp_path / "lora", hf, "gpt2")
    with pytest.raises(PEFTError, match="the norm's weights are gone"):
        load_peft(folder, processed(model, fold_ln=True))
    with pytest.raises(PEFTError, match="the value biases were folded"):
        load_peft(only(folder, "attn.c_proj"), processed(model, fold_value_biases=True))
    form = LoRA(1)
    folded = processed(model, fold_ln=True)
    with pytest.raises(PEFTError, match="Make the LoRA on the unprocessed model"):
        save_peft(tmp_path / "x", folded, form.intervention(folded, moved(form, folded)))


def test_an_adapter_for_another_model_is_refused(tmp_path):
    hf, model = pair("llama")
    folder = folder_of(tmp_path / "lora", hf, "llama")
    deeper, tokenizer = tiny_hf("llama", n_layers=3, d_model=16)
    wider, _ = tiny_hf("llama", n_layers=2, d_model=32)
    with pytest.raises(PEFTError, match="reads 64 and writes 32: the adapter was made for another"):
        load_peft(folder, Model(hooked_from_hf(wider, tokenizer, check=False)))
    with pytest.raises(PEFTError, match="no such linear map in its blocks"):
        load_peft(folder_of(tmp_path / "deep", deeper, "llama"), model)
    with pytest.raises(PEFTError, match="no such linear map in its blocks"):
        load_peft(folder, pair("gpt2")[1])
    form = LoRA(1)
    ours = save_peft(tmp_path / "ours", model, form.intervention(model, moved(form, model)))
    other = Model(hooked_from_hf(tiny_hf("llama", n_layers=2, d_model=16, seed=1)[0], tokenizer,
                                 check=False))  # fmt: skip
    with pytest.raises(PEFTError, match="fingerprints of the weights differ"):
        load_peft(ours, other)
    load_peft(ours, other, other_weights=True)


def wide(tensors):
    return {k: torch.ones(2, 99) if "lora_A" in k else v for k, v in tensors.items()}


def of_two_ranks(tensors):
    return {k: torch.ones(len(v), 3) if "lora_B" in k else v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (wide, "from 99 to 16 numbers.* was made for another model"),
        (of_two_ranks, "with one rank of 1 or more"),
        (lambda t: {k: v[None] for k, v in t.items()}, "with one rank of 1 or more"),
        (lambda t: {k: v[:0] if "lora_A" in k else v[:, :0] for k, v in t.items()}, "one rank"),
        (lambda t: {k: v.T for k, v in t.items()}, "A is .rank, reads. and B is .writes, rank."),
        (lambda t: {k: v * torch.nan for k, v in t.items()}, "holds NaN or infinity"),
        (lambda t: {k: (9 * v).int() for k, v in t.items()}, "of torch.int32"),
        (lambda t: {k: 0 * v for k, v in t.items()}, "changes nothing"),
        (lambda t: {}, "changes nothing"),
    ],
)
def test_factors_that_are_no_change_of_this_model_are_refused(tmp_path, change, text):
    hf, model = pair("llama")
    folder = folder_of(tmp_path / "lora", hf, "llama")
    path = folder / "adapter_model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)
    with pytest.raises(PEFTError, match=text):
        load_peft(folder, model)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"r": 99}, "states rank 99 .* and its factors have rank 2"),
        ({"r": 0}, "states rank 0"),
        ({"rank_pattern": {"q_proj": 3}}, "states rank 3 for model.layers.0.self_attn.q_proj"),
        ({"peft_type": "IA3"}, "peft_type='IA3', and only LORA"),
        ({"use_dora": True}, "uses use_dora"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"bias": "all"}, "uses bias"),
        ({"lora_alpha": "much"}, "is not a number"),
    ],
)
def test_other_kinds_of_adapters_are_refused(tmp_path, config, text):
    hf, model = pair("llama")
    with pytest.raises(PEFTError, match=text):
        load_peft(folder_of(tmp_path / "lora", hf, "llama", **config), model)


def test_damaged_and_missing_files_are_refused(tmp_path):
    hf, model = pair("llama")
    with pytest.raises(FileNotFoundError, match="adapter_config.json is missing"):
        load_peft(tmp_path / "none", model)
    folder = folder_of(tmp_path / "lora", hf, "llama")
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2)}, weights)
    with pytest.raises(PEFTError, match="neither lora_A nor lora_B"):
        load_peft(folder, model)
    save_file({k: v for k, v in tensors.items() if "lora_A" in k}, weights)
    with pytest.raises(PEFTError, match="only one factor"):
        load_peft(folder, model)
    weights.write_bytes(b"no tensors")
    with pytest.raises(DamagedFile):
        load_peft(folder, model)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(PEFTError, match="can run code"):
        load_peft(folder, model)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(DamagedFile):
        load_peft(folder, model)


def test_what_is_no_lora_is_not_saved(tmp_path):
    _, model = pair("llama")
    vector = VectorForm(Site(0)).intervention(model, {"vector": torch.ones(16)})
    with pytest.raises(PEFTError, match="no set of low-rank changes"):
        save_peft(tmp_path / "x", model, vector)
