"""A random model of GPT-2's shape as a local Hugging Face directory, and texts for it."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save_file
from task import Work
from tokenizers import Tokenizer, models, pre_tokenizers

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of the model; the defaults are GPT-2 small's."""

    n_layers: int = 12
    d_model: int = 768
    n_heads: int = 12
    d_vocab: int = 50257
    n_ctx: int = 1024
    seed: int = 0
    """Seeds the weights."""


def build_model(shape: Shape, folder: Path) -> Path:
    """Writes the model of this shape below `folder`, unless it is there, and returns its place."""
    from transformers import GPT2Config, GPT2LMHeadModel

    digest = sha256(json.dumps(asdict(shape), sort_keys=True).encode()).hexdigest()[:10]
    place = folder / f"gpt2-{shape.n_layers}x{shape.d_model}-{digest}"
    if (place / "tokenizer_config.json").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    config = GPT2Config(
        n_layer=shape.n_layers,
        n_embd=shape.d_model,
        n_head=shape.n_heads,
        vocab_size=shape.d_vocab,
        n_positions=shape.n_ctx,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(shape.seed)
        model = GPT2LMHeadModel(config)
    model.generation_config.eos_token_id = None
    model.save_pretrained(place)
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), shape.d_vocab))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.save(str(place / "tokenizer.json"))
    # Written by hand, so that every version of transformers reads the same class name. Written
    # last: its presence says that the directory is whole.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "padding_side": "left",
        "model_max_length": shape.n_ctx,
        "clean_up_tokenization_spaces": False,
        # As GPT-2's own: token_type_ids, if given, would be embedded and added.
        "model_input_names": ["input_ids", "attention_mask"],
        # TransformerLens asks for a BOS-adding twin when this key is absent; no text has a BOS.
        "add_bos_token": False,
    }
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    return place


def make_work(
    model_dir: Path,
    shape: Shape,
    out: Path,
    *,
    pairs: int,
    prompts: int,
    tokens: int,
    ragged: bool,
    multipliers: tuple[float, ...],
    n_new: int,
    seed: int = 1,
) -> Work:
    """Draws texts of about `tokens` words, steering vectors and answers, and writes them down.

    Texts of a pair share no prefix, so that no contestant is helped by the texts. With `ragged`,
    lengths are uniform between three quarters and five quarters of `tokens`.
    """
    draw = random.Random(seed)

    def word() -> str:
        return f"w{draw.randrange(len(SPECIAL), shape.d_vocab)}"

    def text() -> str:
        low, high = (tokens * 3 // 4, tokens * 5 // 4) if ragged else (tokens, tokens)
        return " ".join(word() for _ in range(draw.randint(low, high)))

    all_pairs = tuple((text(), text()) for _ in range(pairs))
    all_prompts = tuple(text() for _ in range(prompts))
    answers = tuple((word(), word()) for _ in range(prompts))
    vectors = torch.randn(
        shape.n_layers, shape.d_model, generator=torch.Generator().manual_seed(seed)
    )
    # Half a unit of the norm that a GPT-2 initialisation gives the embeddings: a multiplier of 3
    # then changes log-odds by much more than the tolerance of the comparison.
    vectors = 0.5 * vectors / vectors.norm(dim=-1, keepdim=True)
    out.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": vectors}, out / "vectors.safetensors")
    work = Work(
        model_dir=str(model_dir),
        pairs=all_pairs,
        prompts=all_prompts,
        answers=answers,
        multipliers=multipliers,
        vectors=str(out / "vectors.safetensors"),
        n_new=n_new,
        layer=shape.n_layers // 2,
        multiplier=2.0,
    )
    work.save(out / "work.json")
    return work
