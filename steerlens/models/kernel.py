"""The blocks of a HookedTransformer without its hooks: the same numbers for less work.

A `HookedTransformer` lays its weights out anew at every call, copies its unembedding matrix to read
one token, and recomputes what many rows share. Here the weights are laid out once, rows that share
a prompt share that prompt's keys and values, and only the asked columns and tokens are read out.

Rows are arranged as [prompt, row, column, d_model]: `row` counts the variants of one prompt
(answers, layers, multipliers). Everything before the first edited column is the prompt's alone.
`tests/test_kernel.py` holds this file to the hooked forward pass.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.sites import TokenBatch

_Heads = Float[Tensor, "... _ _ _"]
KeysValues = tuple[_Heads, _Heads]
"""Keys and values: [prompt, kv_head, key, d_head] of a prefix, [prompt, row, …] of rows."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
# Settings under which a block does something that this file does not do.
_UNSUPPORTED = (
    "use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in", "use_hook_tokens",
    "use_qk_norm", "use_attention_sinks", "use_logn_attn", "use_dynamic_ntk_rope", "load_in_4bit",
    "post_embedding_ln", "clip_qkv", "num_experts",
)  # fmt: skip
_POST_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")


def why_not(hooked: Any, known_hooks: Counter[str] | None = None) -> str | None:
    """Why this model cannot run here, or None when it can.

    Hooks count, but for those that the caller knows of and applies itself: they would not fire, so
    their owner must get the hooked forward pass.
    """
    cfg = hooked.cfg
    for name in _UNSUPPORTED:
        if getattr(cfg, name, None):
            return f"cfg.{name} is set"
    if cfg.positional_embedding_type not in ("standard", "rotary"):
        return f"positional embedding {cfg.positional_embedding_type!r}"
    if cfg.normalization_type not in ("LN", "LNPre", "RMS", "RMSPre", None):
        return f"normalization {cfg.normalization_type!r}"
    if not cfg.attn_only and cfg.act_fn not in _ACTIVATIONS:
        return f"activation {cfg.act_fn!r}"
    if cfg.original_architecture in _POST_NORM or getattr(cfg, "attention_dir", "") != "causal":
        return f"architecture {cfg.original_architecture!r}"
    if len({p.device for p in hooked.parameters()}) > 1:
        return "the model is spread over several devices"
    known = known_hooks or Counter()
    for name, point in hooked.hook_dict.items():
        if len(point.fwd_hooks) > known[name] or point.bwd_hooks:
            return f"there is a hook on {name}"
    points = set(hooked.hook_dict.values())
    for name, module in hooked.named_modules():
        if module not in points and (change := _changed(module)):
            return f"{change} {name or 'the model'}"
    return None


def _changed(module: torch.nn.Module) -> str | None:
    """What makes a module compute something else than its weights say."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "there is a hook of PyTorch on"
    if "forward" in vars(module):
        return "another forward is set on"
    if not type(module).__module__.startswith(("transformer_lens.", "torch.nn.modules.")):
        return f"a module of another library, {type(module).__name__}, is"
    return None


class _Product:
    """Rows times a weight matrix, plus its bias if it has one."""

    def __init__(self, weight: Tensor, bias: Tensor | None, factors: torch.dtype | None) -> None:
        """
        Args:
            factors: The precision to which both factors are rounded, and in which the product is
                given; None leaves them as they are.
        """
        self.weight = weight if factors is None else weight.to(factors)
        self.bias = bias if bias is None or factors is None else bias.to(factors)
        self.factors = factors

    def __call__(self, rows: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "n d_out"]:
        flat = rows.flatten(0, -2)
        flat = flat if self.factors is None else flat.to(self.factors)
        if self.bias is None:
            return flat @ self.weight
        return torch.addmm(self.bias, flat, self.weight)


@dataclass(frozen=True, eq=False)
class _Block:
    norm1: Callable[[Tensor], Tensor]
    norm2: Callable[[Tensor], Tensor]
    post1: Callable[[Tensor], Tensor]
    post2: Callable[[Tensor], Tensor]
    qkv: _Product  # [d_model, (heads + 2 kv_heads) * d_head]
    out: _Product
    mlp: Callable[[Tensor], Tensor] | None
    scale: float
    window: int | None
    rotary: Any
    """The attention that holds the rotary tables, which grow with the texts."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Where the columns being computed are: their positions, and which keys they may see."""

    positions: Int[Tensor, "prompt rows pos"]
    """Position ids; `rows` is 1 when all rows of a prompt agree."""
    index: Int[Tensor, " pos"]
    """Absolute columns, for causality and local windows."""
    own_keys: Bool[Tensor, "prompt rows key"]
    """Real tokens among the row's own keys (kept ones first, then these columns)."""
    own_index: Int[Tensor, " key"]
    shared_keys: Bool[Tensor, "prompt prefix"] | None = None
    """Real tokens among the prompt's shared keys, which are columns 0, 1, …"""

    @classmethod
    def of(cls, batch: TokenBatch, start: int = 0, stop: int | None = None) -> Columns:
        """Columns `start` to `stop` of a batch whose rows share nothing; all before are seen."""
        index = torch.arange(batch.width, device=batch.tokens.device)[:stop]
        return cls(
            positions=batch.positions[:, None, start:stop],
            index=index[start:],
            own_keys=batch.mask[:, None, :stop],
            own_index=index,
        )

    def for_rows(self, rows: int) -> Columns:
        """The columns of a prompt's variants, for as many copies of them as make `rows`."""
        variants = self.positions.shape[1]
        if variants in (1, rows):  # one variant broadcasts over the rows
            return self
        times = rows // variants
        return replace(
            self,
            positions=self.positions.repeat(1, times, 1),
            own_keys=self.own_keys.repeat(1, times, 1),
        )


class Kept:
    """The keys and values of rows that grow column by column, without copying what is there."""

    def __init__(self, width: int) -> None:
        self.width, self.length = width, 0
        self._held: KeysValues | None = None

    def append(self, keys: _Heads, values: _Heads) -> KeysValues:
        """Adds columns, and gives all there are."""
        if self._held is None:
            prompts, rows, heads, _, d = keys.shape
            shape = (prompts, rows, heads, self.width, d)
            self._held = (keys.new_empty(shape), values.new_empty(shape))
        end = self.length + keys.shape[3]
        for held, new in zip(self._held, (keys, values), strict=True):
            held[:, :, :, self.length : end] = new
        self.length = end
        return self._held[0][:, :, :, :end], self._held[1][:, :, :, :end]

    def add(self, keys: _Heads | None, values: _Heads | None) -> None:
        """Adds to what is kept in the first columns."""
        assert self._held is not None
        for held, added in zip(self._held, (keys, values), strict=True):
            if added is not None:
                held[:, :, :, : added.shape[3]] += added

    def keep(self, prompts: Int[Tensor, " prompt"]) -> None:
        """Goes on with some of the prompts."""
        if self._held is not None:
            self._held = self._held[0][prompts], self._held[1][prompts]


class Peeked(Kept):
    """What is kept of earlier columns, for a look at columns that are not kept."""

    def __init__(self, kept: Kept) -> None:
        super().__init__(kept.width)
        self.kept = kept

    def append(self, keys: _Heads, values: _Heads) -> KeysValues:
        """All there are, with these columns, which stay as they are."""
        held, end = self.kept._held, self.kept.length
        if held is None or end == 0:
            return keys, values
        own_keys, own_values = (one[:, :, :, :end] for one in held)
        return torch.cat([own_keys, keys], 3), torch.cat([own_values, values], 3)


class Kernel:
    """One model's weights, laid out for multiplication. Build one per sweep; it copies a little.

    The weights are those of the moment when it is built: under an intervention that exchanges
    parameters, build it while that is attached.
    """

    def __init__(
        self,
        hooked: Any,
        known_hooks: Counter[str] | None = None,
        first: int = 0,
        products: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            known_hooks: Hooks that the caller applies itself, as in `why_not`.
            first: The first block that will be run; those below are not laid out.
            products: The precision of the products with the blocks' weights, of which there is then
                a copy; by default that of the weights. The stream, norms, attention patterns and
                the read-out keep theirs.
        """
        reason = why_not(hooked, known_hooks)
        if reason is not None:
            raise ValueError(f"This model cannot run without its hooks: {reason}.")
        _keep_freed_memory()
        self.cfg = cfg = hooked.cfg
        self.heads = cfg.n_heads
        self.kv_heads = cfg.n_key_value_heads or cfg.n_heads
        self.d_head = cfg.d_head
        self.products = products
        self._lay_out_ends(hooked)
        self.n_layers: int = cfg.n_layers
        self.blocks = {
            layer: self._block(block) for layer, block in enumerate(hooked.blocks) if layer >= first
        }

    def relaid(self, hooked: Any, layers: Iterable[int]) -> Kernel:
        """The kernel of the weights as they are now, if only those of some blocks are others.

        Embedding, final norm and unembedding are read anew in any case.

        Args:
            layers: The blocks that are laid out anew.
        """
        other = copy.copy(self)
        other._lay_out_ends(hooked)
        other.blocks = {**self.blocks, **{n: other._block(hooked.blocks[n]) for n in layers}}
        return other

    def _lay_out_ends(self, hooked: Any) -> None:
        """Reads what comes before the first block and after the last."""
        cfg = hooked.cfg
        self.embedding = hooked.embed.W_E
        self.position_embedding = (
            hooked.pos_embed.W_pos if cfg.positional_embedding_type == "standard" else None
        )
        self.unembedding = hooked.unembed.W_U
        self.unembedding_bias = hooked.unembed.b_U
        self.norm = _norm(getattr(hooked, "ln_final", None), cfg)

    def _block(self, block: Any) -> _Block:
        cfg, attn = self.cfg, block.attn
        grouped = cfg.n_key_value_heads is not None
        w_k, w_v = (attn._W_K, attn._W_V) if grouped else (attn.W_K, attn.W_V)
        b_k, b_v = (attn._b_K, attn._b_V) if grouped else (attn.b_K, attn.b_V)
        weight = torch.cat([w.transpose(0, 1).flatten(1) for w in (attn.W_Q, w_k, w_v)], 1)
        bias = torch.cat([b.flatten() for b in (attn.b_Q, b_k, b_v)])
        both = cfg.use_normalization_before_and_after
        return _Block(
            norm1=_norm(block.ln1, cfg),
            norm2=_norm(getattr(block, "ln2", None), cfg),
            post1=_norm(block.ln1_post if both else None, cfg),
            post2=_norm(block.ln2_post if both and not cfg.attn_only else None, cfg),
            qkv=_Product(weight, bias, self.products),
            out=_Product(attn.W_O.flatten(0, 1), attn.b_O, self.products),
            mlp=None if cfg.attn_only else _mlp(block.mlp, cfg, self.products),
            scale=float(attn.attn_scale),
            window=cfg.window_size if attn.attn_type == "local" else None,
            rotary=attn if cfg.positional_embedding_type == "rotary" else None,
        )

    def embed(
        self, tokens: Int[Tensor, "prompt rows pos"], positions: Int[Tensor, "prompt #rows pos"]
    ) -> Float[Tensor, "prompt rows pos d_model"]:
        """The stream that enters block 0."""
        resid = self.embedding[tokens]
        if self.position_embedding is not None:
            return resid + self.position_embedding[positions]
        self._grow_rotary(positions)
        return resid

    def _grow_rotary(self, positions: Int[Tensor, "prompt #rows pos"]) -> None:
        """Extends the tables, which start with 2,048 rows, as the hooked forward pass does."""
        if self.position_embedding is not None or not positions.numel():
            return
        length = int(positions.max()) + 1
        for block in self.blocks.values():
            if block.rotary is not None and length > (rows := len(block.rotary.rotary_cos)):
                with torch.inference_mode(False):
                    block.rotary._extend_rotary_embeddings(
                        min(self.cfg.n_ctx, max(length, 2 * rows))
                    )

    def block(
        self,
        layer: int,
        resid: Float[Tensor, "prompt rows pos d_model"],
        columns: Columns,
        shared: KeysValues | None = None,
        kept: Kept | None = None,
        tail: int | None = None,
    ) -> tuple[Float[Tensor, "prompt rows out d_model"], KeysValues]:
        """One block.

        Args:
            shared: Keys and values of each prompt's unedited prefix [prompt, kv_head, key, d_head].
            kept: Each row's own earlier keys and values, to which these columns' are added.
            tail: Return only the last `tail` columns (the others are still seen as keys).

        Returns:
            The stream after the block, and this row's keys and values of these columns.
        """
        b = self.blocks[layer]
        normed = b.norm1(resid)
        q, k, v = self._qkv(b, normed, columns.positions)
        own = (k, v) if kept is None else kept.append(k, v)
        if tail is not None and tail < resid.shape[2]:
            q, resid, normed = q[..., -tail:, :], resid[:, :, -tail:], normed[:, :, -tail:]
        z = self._attention(b, q, own, shared, columns)
        attn_out = b.post1(b.out(z).to(resid.dtype).view_as(resid))
        if b.mlp is None:
            return resid + attn_out, (k, v)
        if self.cfg.parallel_attn_mlp:
            return resid + attn_out + b.post2(b.mlp(b.norm2(resid))), (k, v)
        mid = resid + attn_out
        return mid + b.post2(b.mlp(b.norm2(mid))), (k, v)

    def climb(
        self,
        resid: Float[Tensor, "prompt rows pos d_model"],
        columns: Columns,
        *,
        enter: Callable[[int, Tensor], Tensor] | None = None,
        shared: Sequence[KeysValues | None] | None = None,
        kept: Sequence[Kept] | None = None,
        first: int = 0,
        top: int | None = None,
        tail: int | None = None,
        into: list[KeysValues] | None = None,
    ) -> Float[Tensor, "prompt more out d_model"]:
        """The stream through the blocks, one after the other.

        Args:
            enter: Given the number of a block and the stream that enters it, and once the number
                of layers and what leaves the last block: the stream to go on with. It may add rows.
            shared: For every block, keys and values of each prompt's unedited prefix; None for blocks
                below the first.
            kept: For every block, each row's own earlier keys and values.
            first: The block that the stream enters.
            top: The block whose input is wanted; by default what leaves the last one.
            tail: Return only the last `tail` columns of the last block.
            into: A list to which the keys and values of these columns are added, block by block.
        """
        end = self.n_layers if top is None else top
        if first:  # the stream was not embedded here
            self._grow_rotary(columns.positions)
        for layer in range(first, end + 1):
            if enter is not None:
                resid = enter(layer, resid)
            if layer < end:
                resid, own = self.block(
                    layer,
                    resid,
                    columns.for_rows(resid.shape[1]),
                    shared=None if shared is None else shared[layer],
                    kept=None if kept is None else kept[layer],
                    tail=tail if layer == self.n_layers - 1 else None,
                )
                if into is not None:
                    into.append(own)
        return resid

    def prefix(self, batch: TokenBatch, width: int) -> list[KeysValues] | None:
        """Keys and values of each row's first `width` columns, block by block; None for no column.

        [prompt, kv_head, key, d_head] each, as `block` takes them for the rows that share them.
        """
        if width == 0:
            return None
        columns, found = Columns.of(batch, 0, width), []
        resid = self.embed(batch.tokens[:, None, :width], columns.positions)
        self.climb(resid, columns, tail=1, into=found)
        return [(keys[:, 0], values[:, 0]) for keys, values in found]

    def turned(
        self,
        layer: int,
        keys: Float[Tensor, "prompt rows kv_head pos d_head"],
        positions: Int[Tensor, "prompt rows pos"],
    ) -> Float[Tensor, "prompt rows kv_head pos d_head"]:
        """Keys as they are kept: turned by their positions, where a model turns them."""
        rotary = self.blocks[layer].rotary
        if rotary is None:
            return keys
        sin, cos = (t[positions][:, :, None] for t in (rotary.rotary_sin, rotary.rotary_cos))
        return self._rotate(keys, sin, cos)

    def states(self, resid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The final stream, normed: what the unembedding reads."""
        return self.norm(resid)

    def logits(
        self, states: Float[Tensor, "n d_model"], targets: Int[Tensor, " target"] | None = None
    ) -> Float[Tensor, "n target"]:
        """Logits of the asked tokens (all tokens without `targets`)."""
        weight, bias = self.unembedding, self.unembedding_bias
        if targets is not None:
            weight, bias = weight[:, targets], bias[targets]
        return soft_cap(torch.addmm(bias, states, weight), self.cfg.output_logits_soft_cap)

    def _qkv(self, b: _Block, normed: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prompts, rows, width, _ = normed.shape
        mixed = b.qkv(normed).to(normed.dtype)
        mixed = mixed.view(prompts, rows, width, -1, self.d_head).transpose(2, 3)
        qk, v = mixed.split([self.heads + self.kv_heads, self.kv_heads], 2)
        if b.rotary is not None:
            tables = (b.rotary.rotary_sin, b.rotary.rotary_cos)
            sin, cos = (table[positions][:, :, None] for table in tables)
            qk = self._rotate(qk, sin, cos)
        q, k = qk.split([self.heads, self.kv_heads], 2)
        return q, k, v

    def _rotate(self, x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        """Turns queries and keys together; the sign of the half that is subtracted is the sine's."""
        width = sin.shape[-1]
        turned, rest = x[..., :width], x[..., width:]
        if self.cfg.rotary_adjacent_pairs:
            flipped = turned.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
            sin = torch.stack([-sin[..., ::2], sin[..., 1::2]], -1).flatten(-2)
        else:
            half = width // 2
            flipped = torch.cat([turned[..., half:], turned[..., :half]], -1)
            sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        if x.device.type == "cpu":
            turned = turned * cos + flipped * sin
        else:  # one pass over memory fewer, and one rounding
            turned = torch.addcmul(turned * cos, flipped, sin)
        return torch.cat([turned, rest], -1) if rest.shape[-1] else turned

    def _attention(
        self, b: _Block, q: Tensor, own: KeysValues, shared: KeysValues | None, columns: Columns
    ) -> Float[Tensor, "prompt rows pos heads_times_d_head"]:
        prompts, rows, _, width, d = q.shape
        query_index = columns.index[-width:, None]
        own_mask = self._visible(b, query_index, columns.own_index, columns.own_keys)
        cap = self.cfg.attn_scores_soft_cap
        if shared is None and not (cap and cap > 0) and _fused(q):
            keys, values = own
            z = F.scaled_dot_product_attention(
                q.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1),
                attn_mask=own_mask.expand(prompts, rows, -1, -1).flatten(0, 1)[:, None],
                scale=1.0 / b.scale, enable_gqa=self.kv_heads != self.heads,
            )  # fmt: skip
            return z.view(prompts, rows, self.heads, width, d).transpose(2, 3).flatten(3)

        group = self.heads // self.kv_heads
        q = q.unflatten(2, (self.kv_heads, group))  # [prompt, row, kv_head, group, pos, d_head]
        keys, values = own
        scores = (q.flatten(3, 4) @ keys.mT).unflatten(3, (group, width))
        mask, n_shared = own_mask.expand(prompts, rows, -1, -1), 0
        if shared is not None and columns.shared_keys is not None:
            n_shared = shared[0].shape[2]
            # All rows of a prompt in one product: the prefix is read once, not once per row.
            together = q.permute(0, 2, 1, 3, 4, 5).flatten(2, 4) @ shared[0].mT
            together = together.unflatten(2, (rows, group, width)).transpose(1, 2)
            scores = torch.cat([together, scores], -1)
            index = torch.arange(n_shared, device=q.device)
            prefix = self._visible(b, query_index, index, columns.shared_keys[:, None])
            mask = torch.cat([prefix.expand(prompts, rows, -1, -1), mask], -1)
        scores = soft_cap(scores / b.scale, cap).masked_fill(~mask[:, :, None, None], -torch.inf)
        pattern = torch.softmax(scores, -1)
        z = (pattern[..., n_shared:].flatten(3, 4) @ values).unflatten(3, (group, width))
        if shared is not None:
            of_prompt = pattern[..., :n_shared].transpose(1, 2).flatten(2, 4) @ shared[1]
            z = z + of_prompt.unflatten(2, (rows, group, width)).transpose(1, 2)
        return z.flatten(2, 3).transpose(2, 3).flatten(3)

    @staticmethod
    def _visible(b: _Block, query: Tensor, key: Tensor, real: Tensor) -> Bool[Tensor, "p r q k"]:
        seen = key <= query
        if b.window is not None:
            seen = seen & (key > query - b.window)
        # A column always sees itself, so that a padding row has something to attend to.
        return (seen & real[:, :, None, :]) | (key == query)


def _fused(q: Tensor) -> bool:
    """Whether attention is one call of PyTorch.

    A GPU's library plans anew for every number of keys, which takes far longer than the attention of
    one token, and a text that is written has another number of keys at each.
    """
    return not (q.is_cuda and q.shape[-2] == 1)


def _keep_freed_memory() -> None:
    """Has the C library reuse blocks of up to 31 MB instead of mapping fresh pages each time.

    Touching fresh pages can take a tenth of all time. glibc's limit follows the largest block that
    was freed, to a little over this (mallopt(3), M_MMAP_THRESHOLD); elsewhere this does nothing.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """Gemma-2's squashing of scores and logits into (-cap, cap); off when cap is not positive."""
    return cap * torch.tanh(x / cap) if cap is not None and cap > 0 else x


def _norm(module: Any, cfg: Any) -> Callable[[Tensor], Tensor]:
    if module is None or isinstance(module, torch.nn.Identity):
        return lambda x: x
    weight, bias, eps = getattr(module, "w", None), getattr(module, "b", None), float(cfg.eps)
    if type(module).__name__.startswith("RMS"):
        return lambda x: F.rms_norm(x, x.shape[-1:], weight, eps)
    return lambda x: F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _mlp(mlp: Any, cfg: Any, products: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    activation = _ACTIVATIONS[cfg.act_fn]
    # Read once, as all other weights are: the kernel is of one moment.
    w_out = _Product(mlp.W_out, mlp.b_out, products)
    if not cfg.gated_mlp:
        w_in = _Product(mlp.W_in, mlp.b_in, products)
        return lambda x: w_out(activation(w_in(x))).to(x.dtype).view_as(x)
    up, gate = (_Product(weight, None, products) for weight in (mlp.W_in, mlp.W_gate))
    # Most gated models have no bias here, and TransformerLens keeps zeros.
    learns = torch.is_grad_enabled() and mlp.b_in.requires_grad
    bias = mlp.b_in.to(up.weight.dtype) if learns or bool(mlp.b_in.any()) else None

    def gated(x: Tensor) -> Tensor:
        hidden = activation(gate(x)) * up(x)
        hidden = hidden if bias is None else hidden + bias
        return w_out(hidden).to(x.dtype).view_as(x)

    return gated
