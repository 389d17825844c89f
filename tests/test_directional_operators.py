"""Rotations, ranges and masks: the published formulas, the contract, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from steerlens.arguments import ArgumentError
from steerlens.data import ContrastPair, ContrastSet
from steerlens.directions import Direction, DirectionError
from steerlens.forms import VectorForm
from steerlens.interventions import Add, ClampRange, Rotate, ScaleMask, TurnTowards
from steerlens.interventions.rotation import angular_steering
from steerlens.measures.reading import activations
from steerlens.measures.sweep import plan, sweep
from steerlens.models.model import Model
from steerlens.operators import sadi
from steerlens.protocols import Directed, ResidualEdit
from steerlens.sites import Positions, Site
from steerlens.testing import check_intervention, tiny_bridge, tiny_model
from tests.kinds import in_turn

PAIRS = ContrastSet(
    "small",
    (
        ContrastPair("the soup was", " good", " bad"),
        ContrastPair("I think that the cat was very", " happy", " sad"),
        ContrastPair("you like that red wine", " really", " not"),
    ),
)
FAMILIES = ("gpt2", "llama", "gemma2")


@pytest.fixture(scope="module", params=FAMILIES)
def small(request):
    return Model(tiny_model(request.param, n_layers=2, d_model=16))


def direction(seed=0, site=None, width=16):
    generator = torch.Generator().manual_seed(seed)
    return Direction(torch.randn(width, generator=generator), site or Site(0), resid_norm=3.0)


def stream(width=16, std=1.0):
    return std * torch.randn(2, 5, width, generator=torch.Generator().manual_seed(9))


def edits():
    d, other = direction(), direction(1)
    return {
        "turn": TurnTowards(d, 40.0),
        "rotate": Rotate(d, other, 120.0),
        "rotate, adaptive": Rotate(d, other, 120.0, adaptive=True),
        "rotate, relative": Rotate(d, other, 60.0, relative=True),
        "range": ClampRange(d, low=1.5, high=2.0),
        "one side": ClampRange(d, high=-1.0),
        "hidden": ScaleMask(Site(0), (torch.arange(16) % 3 == 0).float(), 2.0),
    }


@pytest.mark.parametrize(("small", "name"), in_turn(FAMILIES, edits()), indirect=["small"])
def test_an_edit_keeps_the_contract(small, name):
    edit = edits()[name]
    assert isinstance(edit, ResidualEdit)
    check_intervention(edit, small)
    assert plan(small, PAIRS, [edit], (0.0, 1.0)).path == "wavefront"


@pytest.mark.parametrize(
    ("small", "stream"), in_turn(FAMILIES, ("v", "mlp_post", "z", "k")), indirect=["small"]
)
def test_heads_and_neurons_keep_the_contract(small, stream):
    site = Site(1, stream)
    mask = ScaleMask(site, torch.arange(small.width(site)) % 2 * 1.0, -0.8, Positions.all())
    add = Add(direction(site=site, width=small.width(site)))
    check_intervention(mask, small)
    check_intervention(add, small)


def test_a_scaled_head_is_scaled_by_hand(small):
    texts = ["the cat sat on the bed", "you like that red wine"]
    site, size = Site(1, "z"), small.cfg.d_head
    mask = torch.zeros(small.width(site))
    mask[size : 2 * size] = 1.0
    with ScaleMask(site, mask, 3.0, Positions.all(special=True)).attach(small, 0.5):
        found = small.logits(texts)

    def by_hand(z, hook):
        z = z.clone()
        z[:, :, 1] *= 1 + 0.5 * 3.0
        return z

    hook = ("blocks.1.attn.hook_z", by_hand)
    batch = small.tokens(texts)
    with small.wrapped.hooks(fwd_hooks=[hook]):
        plain = small.wrapped(batch.tokens, attention_mask=batch.mask.long())
    torch.testing.assert_close(found[batch.mask], plain[batch.mask])


def test_a_turn_keeps_the_norm_and_is_adding_for_small_angles():
    d, h = direction(), stream()
    turned = TurnTowards(d, 30.0)(h, 1.0)
    torch.testing.assert_close(turned.norm(dim=-1), h.norm(dim=-1))
    cos = torch.cosine_similarity(turned, h, dim=-1)
    torch.testing.assert_close(cos, torch.full_like(cos, math.cos(math.radians(30))))
    u = d.unit().vector
    before, after = (torch.acos(torch.cosine_similarity(x, u, dim=-1)) for x in (h, turned))
    torch.testing.assert_close(before - after, torch.full_like(before, math.radians(30)))
    h = h - (h @ u)[..., None] * u  # across the direction the turn adds the direction itself
    small = 1e-3
    added = h + small * h.norm(dim=-1, keepdim=True) * u
    gap = TurnTowards(d, math.degrees(small))(h, 1.0) - added
    assert float(gap.norm(dim=-1).max()) < 1e-6 * float(h.norm(dim=-1).max())
    assert float((added - h).norm(dim=-1).min()) > 1e-4


def test_what_has_the_direction_already_is_not_turned():
    d = direction()
    h = torch.stack([d.vector, -2 * d.vector])[None]
    torch.testing.assert_close(TurnTowards(d, 90.0)(h, 1.0), h)


def test_a_rotation_is_the_published_formula():
    d, other, h = direction(), direction(1), stream()
    angle = math.radians(120)
    b1, b2 = Rotate(d, other, 120.0).plane
    torch.testing.assert_close(torch.stack([b1, b2]) @ torch.stack([b1, b2]).T, torch.eye(2))
    x, y = h @ b1, h @ b2
    inside = x[..., None] * b1 + y[..., None] * b2
    ring = math.cos(angle) * b1 + math.sin(angle) * b2
    by_hand = h - inside + inside.norm(dim=-1, keepdim=True) * ring
    torch.testing.assert_close(Rotate(d, other, 120.0)(h, 1.0), by_hand)
    torch.testing.assert_close(by_hand.norm(dim=-1), h.norm(dim=-1))
    adaptive = Rotate(d, other, 120.0, adaptive=True)(h, 1.0)
    torch.testing.assert_close(adaptive, torch.where((x > 0)[..., None], by_hand, h))
    assert 0 < int((x > 0).sum()) < x.numel()
    half = Rotate(d, other, 120.0)(h, 0.5)  # half of the way round, from where it is
    phi = torch.atan2(half @ b2, half @ b1)
    whole = torch.remainder(angle - torch.atan2(y, x) + math.pi, 2 * math.pi) - math.pi
    gap = torch.remainder(phi - torch.atan2(y, x) - whole / 2 + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(gap, torch.zeros_like(gap), atol=1e-5, rtol=0)
    relative = Rotate(d, other, 60.0, relative=True)(h, 1.0)
    cos, sin = math.cos(math.radians(60)), math.sin(math.radians(60))
    turned = (cos * x - sin * y)[..., None] * b1 + (sin * x + cos * y)[..., None] * b2
    torch.testing.assert_close(relative, h - inside + turned)


def test_one_plane_is_used_at_every_site(small):
    candidates = [direction(k, site) for k, site in enumerate(small.sites())]
    with pytest.raises(DirectionError, match="three or more sites"):
        angular_steering(candidates, 90.0)
    candidates = [*candidates, replace(candidates[0], site=Site(0, "resid_pre"))]
    made = angular_steering(candidates, 90.0, adaptive=False, positions=Positions.all())
    planes = [torch.stack(edit.plane) for edit in made.interventions]
    assert all(torch.equal(plane, planes[0]) for plane in planes)
    assert [edit.site for edit in made.interventions] == [one.site for one in candidates]
    # The first and the last are the same vector, so one of them is nearest to all.
    torch.testing.assert_close(planes[0][0], candidates[0].unit().vector)
    check_intervention(made, small)


def test_a_range_moves_only_what_is_outside():
    d, h = direction(), stream()
    u = d.unit().vector
    found = ClampRange(d, low=-0.5, high=0.5)(h, 1.0)
    torch.testing.assert_close(found @ u, (h @ u).clamp(-0.5, 0.5))
    inside = (h @ u).abs() <= 0.5
    assert 0 < int(inside.sum()) < inside.numel()
    assert torch.equal(found[inside], h[inside])
    across = h - (h @ u)[..., None] * u
    torch.testing.assert_close(found - (found @ u)[..., None] * u, across)


@pytest.mark.parametrize("elements", ["heads", "neurons", "hidden"])
def test_sadi_masks_what_differs_most(small, elements):
    made = sadi(small, PAIRS, elements, k=3, strength=2.0)
    names = {"heads": "z", "neurons": "mlp_post", "hidden": "resid_post"}
    sites = [Site(layer, names[elements]) for layer in range(2)]
    found = activations(small, PAIRS, sites, progress=False)
    size = small.cfg.d_head if elements == "heads" else 1
    d = (found.positive - found.negative).mean(0).unflatten(-1, (-1, size)).mean(-1)
    best = set(d.flatten().topk(3).indices.tolist())
    masked = set()
    for edit in made.interventions:
        each = edit.mask.unflatten(0, (-1, size))
        assert bool((each == each[:, :1]).all()), "a head as a whole"
        masked |= {edit.site.layer * d.shape[1] + i for i in each[:, 0].nonzero()[:, 0].tolist()}
    assert masked == best
    if FAMILIES[list(names).index(elements)] in small.name:
        check_intervention(made, small)
    ends = sadi(small, PAIRS, elements, k=2, both_ends=True)
    assert sum(int(e.mask.count_nonzero()) for e in ends.interventions) == 2 * size
    swept = sweep(small, PAIRS, [made], (0.0, 1.0), progress=False)
    with made.attach(small, 1.0):
        odds = [small.logits(pair.prompt)[0, -1].log_softmax(-1) for pair in PAIRS]
    ids = [[small.split(p.prompt, a)[1][0] for a in (p.positive, p.negative)] for p in PAIRS]
    by_hand = torch.stack([row[a] - row[b] for row, (a, b) in zip(odds, ids, strict=True)])
    torch.testing.assert_close(swept.log_odds[0, 1], by_hand, atol=1e-5, rtol=1e-4)


def test_a_site_inside_a_sublayer_is_one_place_in_one_language(small):
    for name, hook in (("z", "attn.hook_z"), ("mlp_post", "mlp.hook_post")):
        assert Site(1, name).hook == f"blocks.1.{hook}"
        assert Site.from_hook(f"blocks.1.{hook}") == Site(1, name)
    kept = small.cache("the cat sat", [Site(0, "z"), Site(0, "v")])
    _, cache = small.wrapped.run_with_cache(small.tokens("the cat sat").tokens)
    for site, found in kept.items():
        torch.testing.assert_close(found, cache[site.hook].flatten(2))
        assert found.shape[-1] == small.width(site)


def test_what_cannot_work_is_refused(small):
    d = direction()
    with pytest.raises(DirectionError, match="at least one finite bound"):
        ClampRange(d)
    with pytest.raises(DirectionError, match="no larger than high"):
        ClampRange(d, low=2.0, high=1.0)
    with pytest.raises(DirectionError, match="parallel"):
        Rotate(d, replace(d, vector=3 * d.vector), 90.0)
    with pytest.raises(DirectionError, match="turns nothing"):
        TurnTowards(d, 0.0)
    with pytest.raises(DirectionError, match="not an angle"):
        TurnTowards(d, 270.0)
    with pytest.raises(ValueError, match="scales nothing"):
        ScaleMask(Site(0), torch.zeros(16))
    with pytest.raises(ValueError, match="edits a stream of width 5, and the width of L0 z"):
        ScaleMask(Site(0, "z"), torch.ones(5)).require_fits(small)
    with pytest.raises(DirectionError, match="has width=16"):
        Add(direction(site=Site(0, "mlp_post"))).require_fits(small)
    with pytest.raises(ArgumentError, match="cannot be chosen"):
        sadi(small, PAIRS, "heads", k=1000)
    with pytest.raises(ValueError, match="into one tensor"):
        activations(small, PAIRS, [Site(0), Site(0, "mlp_post")], progress=False)
    stated = replace(direction(site=Site(0, "z")), processing="raw")
    with pytest.raises(DirectionError, match="inside a sublayer"):
        stated.converted("fold_ln")
    bridge = Model(tiny_bridge("gpt2"))
    with pytest.raises(ValueError, match="not checked"):
        bridge.require_site(Site(0, "z"))


def test_edits_of_a_direction_take_another_one():
    d = direction()
    for edit in (TurnTowards(d), Rotate(d, direction(1), 90.0), ClampRange(d, low=0.0)):
        assert isinstance(edit, Directed)
        assert edit.along(direction(5)).direction.vector is not d.vector


def test_forms_train_heads_and_neurons(small):
    form = VectorForm(Site(0, "mlp_post"))
    params = form.begin(small, torch.Generator().manual_seed(0))
    assert params["vector"].shape == (small.width(form.site),)
    params["vector"] += 1.0
    assert form.intervention(small, params).attach(small, 1.0)
