"""What training from cached states saves, against plain training through hooks, in one run.

    python benchmarks/training.py                   # SmolLM2-135M-Instruct
    python benchmarks/training.py --model reviews   # the reference model

Both ways make the same steps on the same batches: frozen weights, LM loss on the positive answers.
The plain way is a `HookedTransformer` with a forward hook for each edit, all columns and all logits,
`loss.backward()`. Seconds are of the processor, on one thread; the steps of both ways take turns,
so that what else runs on the machine slows both alike.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from steerlens.data import ContrastPair, ContrastSet
from steerlens.forms import Form, PostBlock, VectorForm
from steerlens.interventions.changes import StreamEdit
from steerlens.models.model import Model
from steerlens.models.wrapped_state import differentiable
from steerlens.sites import Positions, Site
from steerlens.testbed.reviews import continuations
from steerlens.training import LM
from steerlens.training.scored_set import ScoredSet

THINGS = ("film", "hotel", "book", "meal", "concert", "phone", "garden", "lecture")
ASKED = "Write one short sentence about the {thing} that you remember best from last summer."


def pairs_for(model: Model, name: str, count: int) -> ContrastSet:
    """Prompts of about 40 tokens with answers of about 10, in the model's own chat template."""
    if name == "reviews":
        return continuations("register", count)
    made = [
        ContrastPair(
            ASKED.format(thing=f"{thing} {k}"),
            f"The {thing} was wonderful, and I loved every minute.",
            f"The {thing} was terrible, and I hated every minute.",
        )
        for k in range(-(-count // len(THINGS)))
        for thing in THINGS
    ]
    return ContrastSet("things", tuple(made[:count])).with_chat(model)


class Plain:
    """Training through hooks, as it is usually written."""

    def __init__(self, model: Model, pairs: ContrastSet) -> None:
        self.model = model
        self.batch = model.answered([p.prompt for p in pairs], [p.positive for p in pairs])

    def loss(self, edits: list[StreamEdit], index: Tensor) -> Tensor:
        batch = self.batch.rows(index)
        hooks = [(edit.site.hook, _hook(edit, edit.positions.mask(batch))) for edit in edits]
        mask = batch.mask.long()
        with self.model.wrapped.hooks(fwd_hooks=hooks):
            logits = self.model.wrapped(batch.tokens, attention_mask=mask)
        log_p = torch.log_softmax(logits[:, :-1].float(), -1)
        each = log_p.gather(-1, batch.tokens[:, 1:, None])[..., 0]
        columns = torch.arange(1, batch.width)
        answer = (columns >= batch.prompt_end[:, None]) & batch.mask[:, 1:]
        return -(each * answer).sum() / answer.sum()


def _hook(edit: StreamEdit, chosen: Tensor) -> Callable[..., Tensor]:
    def hook_fn(resid: Tensor, hook: Any) -> Tensor:
        return torch.where(chosen[..., None], edit.edit(resid, 1.0), resid)

    return hook_fn


def compare(
    model: Model, pairs: ContrastSet, form: Form, batch: int, repeats: int
) -> dict[str, Any]:
    """Seconds of a step both ways, their ratio, and how far the gradients differ."""
    with differentiable(model.wrapped):
        begun = form.begin(model, torch.Generator().manual_seed(0))
        params = {
            name: (value + 0.05 * torch.randn(value.shape)).requires_grad_(True)
            for name, value in begun.items()
        }
        tensors = list(params.values())
        started = time.process_time()
        scored = ScoredSet(model, pairs, LM(), [form.intervention(model, params)])
        preparing = time.process_time() - started
        assert scored.run.path == "cached"
        plain = Plain(model, pairs)
        seconds: dict[str, list[float]] = {"cached": [], "hooks": []}
        worst = 0.0
        for step in range(repeats):
            index = torch.arange(step * batch, (step + 1) * batch) % len(pairs)
            found: dict[str, list[Tensor]] = {}
            for way in ("cached", "hooks"):
                started = time.process_time()
                made = form.intervention(model, params)
                if way == "cached":
                    seen = scored.batch(index, made, None, (1.0,), torch.Generator())
                    loss = LM()(seen).mean()
                else:
                    loss = plain.loss(list(made.changes(model)), index)  # type: ignore[arg-type]
                found[way] = list(torch.autograd.grad(loss, tensors))
                seconds[way].append(time.process_time() - started)
            for one, other in zip(found["cached"], found["hooks"], strict=True):
                worst = max(worst, float((one - other).abs().max() / other.abs().max()))
    halves = {way: median(times[1:]) for way, times in seconds.items()}  # the first one warms up
    return {
        "seconds_cached": round(halves["cached"], 4),
        "seconds_hooks": round(halves["hooks"], 4),
        "ratio": round(halves["hooks"] / halves["cached"], 2),
        "seconds_preparing": round(preparing, 2),
        "gradient_difference": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Model.load(asked.model)
    pairs = pairs_for(model, asked.model, asked.pairs)
    middle = Site(model.n_layers // 2)
    forms: dict[str, Form] = {
        "vector at the middle, from the prompt's end": VectorForm(
            middle, Positions.from_prompt_end()
        ),
        "vector at the middle, all tokens": VectorForm(middle),
        "adapters after every block": PostBlock(rank=4),
    }
    tokens = model.answered([p.prompt for p in pairs], [p.positive for p in pairs])
    print(f"{model.name}: batch {asked.batch}, {tokens.width} columns, one thread")
    for name, form in forms.items():
        print(
            f"{name}: {json.dumps(compare(model, pairs, form, asked.batch, asked.repeats))}",
            flush=True,
        )


if __name__ == "__main__":
    main()
