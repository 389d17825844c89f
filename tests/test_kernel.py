"""The blocks without hooks give the numbers of the hooked forward pass."""

import pytest
import torch

from steerlens.models.kernel import Columns, Kept, Kernel, why_not
from steerlens.models.model import Model
from steerlens.sites import Site
from steerlens.testing import FAMILIES, tiny_model
from tests.strangers import low_rank

TEXTS = ["the cat sat on the bed and a dog ran to the town", "you like", "I think it was good"]


@torch.no_grad()
def run(model, batch, **options):
    kernel = Kernel(model.wrapped)
    resid = kernel.embed(batch.tokens[:, None], batch.positions[:, None])
    streams = [resid]
    for layer in range(model.n_layers):
        last = layer == model.n_layers - 1
        resid, _ = kernel.block(layer, resid, Columns.of(batch), **(options if last else {}))
        streams.append(resid)
    return kernel, [stream[:, 0] for stream in streams]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_stream_and_the_logits_equal_the_hooked_ones(family, side):
    model = Model(tiny_model(family))
    batch = model.tokens(TEXTS, padding_side=side)
    kernel, streams = run(model, batch)
    sites = [Site(0, "resid_pre"), *model.sites()]
    cached = model.cache(batch, sites)
    for site, stream in zip(sites, streams, strict=True):
        expected = cached[site][batch.mask]
        torch.testing.assert_close(stream[batch.mask], expected, atol=1e-5, rtol=1e-5)
    logits = kernel.logits(kernel.states(streams[-1][batch.mask]))
    expected = model.wrapped(batch.tokens, attention_mask=batch.mask.long())[batch.mask]
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_processed_weights_give_the_same_numbers_too(family):
    hooked = tiny_model(family)
    hooked.load_and_process_state_dict(hooked.state_dict(), fold_ln=True)
    model = Model(hooked)
    assert "fold_ln" in model.processing
    batch = model.tokens(TEXTS)
    kernel, streams = run(model, batch)
    expected = model.wrapped(batch.tokens, attention_mask=batch.mask.long())[:, -1]
    logits = kernel.logits(kernel.states(streams[-1][:, -1]))
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=1e-5)


def test_only_the_asked_columns_and_tokens_are_read_out(tiny):
    batch = tiny.tokens(TEXTS)
    kernel, whole = run(tiny, batch)
    _, short = run(tiny, batch, tail=2)
    torch.testing.assert_close(short[-1], whole[-1][:, -2:], atol=1e-5, rtol=1e-5)
    states, targets = kernel.states(whole[-1][:, -1]), torch.tensor([7, 9])
    torch.testing.assert_close(kernel.logits(states, targets), kernel.logits(states)[:, targets])


@torch.no_grad()
def test_a_shared_prefix_and_kept_columns_change_nothing(tiny):
    """Columns 0-4 once per prompt, 5-6 kept by each of two rows, the rest computed last."""
    batch = tiny.tokens(TEXTS)
    _, whole = run(tiny, batch)
    kernel, width, cut, kept_to = Kernel(tiny.wrapped), batch.width, 5, 7
    index = torch.arange(width)

    def embedded(start, stop, rows):
        positions = batch.positions[:, None, start:stop]
        return kernel.embed(batch.tokens[:, None, start:stop], positions).expand(-1, rows, -1, -1)

    def columns(start, stop, own_from, shared):
        real = batch.mask[:, None]
        return Columns(
            batch.positions[:, None, start:stop], index[start:stop],
            real[..., own_from:stop], index[own_from:stop],
            batch.mask[:, :shared] if shared else None,
        )  # fmt: skip

    prefix, mid, end = embedded(0, cut, 1), embedded(cut, kept_to, 2), embedded(kept_to, width, 2)
    for layer in range(tiny.n_layers):
        prefix, (k, v) = kernel.block(layer, prefix, columns(0, cut, 0, 0))
        shared = (k[:, 0], v[:, 0])
        kept = Kept(width - cut)
        seen = columns(cut, kept_to, cut, cut)
        mid, _ = kernel.block(layer, mid, seen, shared=shared, kept=kept)
        seen = columns(kept_to, width, cut, cut)
        end, _ = kernel.block(layer, end, seen, shared=shared, kept=kept)
    for row in range(2):
        real = batch.mask[:, kept_to:]
        expected = whole[-1][:, kept_to:][real]
        torch.testing.assert_close(end[:, row][real], expected, atol=1e-5, rtol=1e-5)


def test_a_hook_sends_the_model_to_the_hooked_pass(gpt2):
    def nothing(resid, hook):
        return None

    name = Site(1).hook
    assert why_not(gpt2.wrapped) is None
    for kind in ("fwd_hooks", "bwd_hooks"):
        with gpt2.wrapped.hooks(**{kind: [(name, nothing)]}):
            assert why_not(gpt2.wrapped) == f"there is a hook on {name}"
            assert gpt2.kernel() is None
            with pytest.raises(ValueError, match="cannot run without its hooks: there is a hook"):
                Kernel(gpt2.wrapped)
    assert gpt2.kernel() is not None


def test_a_module_that_computes_something_else_is_not_left_out(monkeypatch):
    """Hooks of PyTorch, a forward of its own, and a wrapper around a module, as LoRA libraries do."""
    model = Model(tiny_model("gpt2", n_layers=1))
    mlp = model.wrapped.blocks[0].mlp

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp

        def forward(self, x):
            return 2 * self.inner(x)

        def __getattr__(self, name):
            return getattr(mlp, name) if name != "inner" else super().__getattr__(name)

    handle = mlp.register_forward_hook(lambda module, given, out: 2 * out)
    assert why_not(model.wrapped) == "there is a hook of PyTorch on blocks.0.mlp"
    handle.remove()
    with monkeypatch.context() as patched:
        patched.setattr(mlp, "forward", lambda x: x)
        assert why_not(model.wrapped) == "another forward is set on blocks.0.mlp"
    model.wrapped.blocks[0]._modules["mlp"] = Wrapped()
    assert "another library, Wrapped, is blocks.0.mlp" in why_not(model.wrapped)
    model.wrapped.blocks[0]._modules["mlp"] = mlp
    assert why_not(model.wrapped) is None


def test_a_kernel_is_of_the_moment_when_it_was_built(gpt2):
    batch, change = gpt2.tokens(TEXTS), low_rank(gpt2, 1)

    def logits(kernel):
        columns = Columns.of(batch)
        resid = kernel.climb(kernel.embed(batch.tokens[:, None], columns.positions), columns)
        return kernel.logits(kernel.states(resid[:, 0][batch.mask]))

    with torch.no_grad():
        before = Kernel(gpt2.wrapped)
        plain = logits(before)
        with change.attach(gpt2, 1.0):
            assert torch.equal(logits(before), plain)
            changed = logits(Kernel(gpt2.wrapped))
            expected = gpt2.logits(batch)[batch.mask]
        torch.testing.assert_close(changed, expected, atol=3e-5, rtol=1e-5)
        assert float((changed - plain).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("use_attn_result", True, "cfg.use_attn_result is set"),
        ("positional_embedding_type", "alibi", "positional embedding 'alibi'"),
        ("normalization_type", "L2", "normalization 'L2'"),
        ("act_fn", "solu_ln", "activation 'solu_ln'"),
        ("attention_dir", "bidirectional", "architecture"),
    ],
)  # fmt: skip
def test_a_model_it_cannot_compute_is_left_to_the_hooked_pass(monkeypatch, setting, value, reason):
    model = Model(tiny_model("gpt2", n_layers=1))
    monkeypatch.setattr(model.wrapped.cfg, setting, value)
    assert reason in why_not(model.wrapped)
    assert model.kernel() is None
