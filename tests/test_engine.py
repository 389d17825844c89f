"""Each intervention takes its own path; finished units do not depend on the machine."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from steerlens.interventions import Add, Together
from steerlens.measures.divergence import divergence
from steerlens.measures.sweep import plan, sweep
from steerlens.sites import Positions, Site
from steerlens.store.cells import Cells
from steerlens.store.tensors import DamagedFile
from tests.grids import MULTIPLIERS, ONE_TOKEN, SEVERAL_TOKENS, every_edit
from tests.strangers import LouderHeads, LowRank, Silent, low_rank

QUIET = {"progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:.*unknown to the tokenizer")


@torch.no_grad()
def by_attaching(model, pairs, intervention, multiplier):
    """Log-odds from a full forward pass for each answer, without padding."""
    found = []
    for pair in pairs:
        sides = []
        for answer in (pair.positive, pair.negative):
            prompt, ids = model.split(pair.prompt, answer)
            with intervention.attach(model, multiplier):
                log_p = model.logits(model.answered([pair.prompt], [answer]))[0].log_softmax(-1)
            at = torch.arange(len(ids)) + len(prompt) - 1
            sides.append(log_p[at, torch.tensor(ids)].sum())
        found.append(sides[0] - sides[1])
    return torch.stack(found)


@dataclass(frozen=True, eq=False)
class Counted:
    """An intervention that counts how often it is attached."""

    intervention: LowRank
    attached: list = field(default_factory=list)

    @property
    def first_block(self):
        return self.intervention.first_block

    per_row = False

    def attach(self, model, multiplier):
        self.attached.append(multiplier)
        return self.intervention.attach(model, multiplier)


def blocks_of(monkeypatch):
    """Collects which blocks are run, with hooks ("hooked") and without ("fast")."""
    from transformer_lens.components import TransformerBlock

    from steerlens.models.kernel import Kernel

    ran = {"hooked": [], "fast": []}
    hooked, fast = TransformerBlock.forward, Kernel.block

    def forward(self, *arguments, **named):
        ran["hooked"].append(self.attn.layer_id)
        return hooked(self, *arguments, **named)

    def block(self, layer, *arguments, **named):
        ran["fast"].append(layer)
        return fast(self, layer, *arguments, **named)

    monkeypatch.setattr(TransformerBlock, "forward", forward)
    monkeypatch.setattr(Kernel, "block", block)
    return ran


@pytest.mark.parametrize("pairs", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several tokens"])
def test_a_strangers_interventions_are_what_they_do_when_attached(tiny, pairs):
    arms = [low_rank(tiny, 2), LouderHeads(1), Silent(low_rank(tiny, 0))]
    odds = sweep(tiny, pairs, arms, MULTIPLIERS, **QUIET).log_odds
    for i, arm in enumerate(arms):
        for j, multiplier in enumerate(MULTIPLIERS):
            expected = by_attaching(tiny, pairs, arm, multiplier)
            torch.testing.assert_close(odds[i, j], expected, atol=5e-5, rtol=1e-5)
    assert float((odds[::2, 3] - odds[::2, 1]).abs().amax(-1).min()) > 1e-3


def test_one_slow_arm_leaves_the_others_as_they_are(gpt2, monkeypatch):
    """Vectors have the same bits, by the same path, beside a change of weights as without it."""
    edits, slow = every_edit(gpt2, Positions.from_prompt_end()), Counted(low_rank(gpt2, 0))
    alone = sweep(gpt2, SEVERAL_TOKENS, edits, MULTIPLIERS, **QUIET)
    ran = blocks_of(monkeypatch)
    bare = sweep(gpt2, SEVERAL_TOKENS, [slow], MULTIPLIERS, **QUIET)
    assert ran == {"hooked": [0, 1, 2], "fast": 3 * [0, 1, 2]}
    for blocks in ran.values():
        blocks.clear()
    slow.attached.clear()
    mixed = sweep(gpt2, SEVERAL_TOKENS, [*edits[:3], slow, *edits[3:]], MULTIPLIERS, **QUIET)
    assert slow.attached == [-1.0, 0.5, 2.0]
    # The prompts' prefix, the unsteered rows with all edits, and the three cells of the slow arm.
    assert ran == {"hooked": [], "fast": 5 * [0, 1, 2]}
    assert mixed.plan.path == "wavefront + general"
    assert mixed.plan.paths[0] == alone.plan.paths[0]
    vectors = [0, 1, 2, *range(4, len(edits) + 1)]
    assert torch.equal(mixed.positive[vectors], alone.positive)
    assert torch.equal(mixed.negative[vectors], alone.negative)
    steered = [0, 2, 3]
    assert torch.equal(mixed.positive[3, steered], bare.positive[0, steered])
    assert torch.equal(mixed.positive[3, 1], alone.positive[0, 1]), "multiplier 0 is one for all"


def test_a_sum_of_edits_is_swept_beside_its_parts_on_a_bridge(tiny_bridge_model):
    edits = every_edit(tiny_bridge_model, Positions.all())[:3]
    arms = [*edits, Together((edits[0], edits[2]))]
    swept = sweep(tiny_bridge_model, ONE_TOKEN, arms, MULTIPLIERS, **QUIET)
    assert swept.plan.path == "replay"
    for i, arm in enumerate(arms):
        expected = by_attaching(tiny_bridge_model, ONE_TOKEN, arm, 2.0)
        torch.testing.assert_close(swept.log_odds[i, 3], expected, atol=5e-5, rtol=1e-5)


def test_blocks_below_the_first_changed_one_are_run_once(gpt2, monkeypatch):
    """The pass of a cell starts a block early, where what leaves that block may be edited."""
    deep = low_rank(gpt2, 2)
    whole = sweep(gpt2, ONE_TOKEN, [Silent(deep)], MULTIPLIERS, **QUIET)
    ran = blocks_of(monkeypatch)
    short = sweep(gpt2, ONE_TOKEN, [deep], MULTIPLIERS, **QUIET)
    assert ran == {"hooked": [0, 1, 2], "fast": 3 * [1, 2]}
    torch.testing.assert_close(short.positive, whole.positive, atol=3e-5, rtol=1e-5)
    late = every_edit(gpt2, Positions.all())[3]  # resid_post of block 1: enters block 2
    for blocks in ran.values():
        blocks.clear()
    both = sweep(gpt2, ONE_TOKEN, [Together((late, deep))], MULTIPLIERS, **QUIET)
    assert ran == {"hooked": [0, 1, 2, *3 * [1, 2]], "fast": []}
    expected = by_attaching(gpt2, ONE_TOKEN, Together((late, deep)), 2.0)
    torch.testing.assert_close(both.log_odds[0, 3], expected, atol=5e-5, rtol=1e-5)


def test_under_an_attached_change_of_weights_the_changed_weights_are_swept(gpt2):
    """The weights that the fast path lays out are those of the moment."""
    edits, change = every_edit(gpt2, Positions.all()), low_rank(gpt2, 1)
    with change.attach(gpt2, 1.0):
        fast = sweep(gpt2, ONE_TOKEN, edits, MULTIPLIERS, **QUIET)
        slow = sweep(gpt2, ONE_TOKEN, [Silent(e) for e in edits], MULTIPLIERS, **QUIET)
    bare = sweep(gpt2, ONE_TOKEN, edits, MULTIPLIERS, **QUIET)
    assert (fast.plan.path, slow.plan.path) == ("wavefront", "general")
    torch.testing.assert_close(fast.log_odds, slow.log_odds, atol=5e-5, rtol=1e-5)
    assert float((fast.log_odds - bare.log_odds).abs().max()) > 1e-3


def test_what_does_not_fit_is_refused_before_any_work(gpt2, monkeypatch):
    from steerlens.models.model import Model
    from steerlens.testing import tiny_model

    other = low_rank(Model(tiny_model("gpt2", d_model=16)), 1)
    ran = blocks_of(monkeypatch)
    for measure, asked in ((sweep, ONE_TOKEN), (divergence, ["the cat sat on the bed"])):
        with pytest.raises(
            ValueError, match=r"LowRank changes blocks.1.mlp.W_out of shape \(32, 16"
        ):
            measure(gpt2, asked, [other], MULTIPLIERS, **QUIET)
    assert ran == {"hooked": [], "fast": []}


# Units of work


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


@pytest.fixture
def small_units(monkeypatch):
    """Units of one or two of three examples."""
    monkeypatch.setattr("steerlens.measures.engine.MAX_TOKENS", 60)


def measured(kind, model, folder):
    arms = [*every_edit(model, Positions.from_prompt_end()), low_rank(model, 1)]
    cells = Cells(folder, kind, facts={"run": "1"})
    if kind == "gain":
        return sweep(model, ONE_TOKEN, arms, MULTIPLIERS, cells=cells, **QUIET).positive
    texts = ["the cat sat on the bed", "I think he said that", "you like that red wine"]
    return divergence(model, texts, arms, MULTIPLIERS, cells=cells, **QUIET)


@pytest.mark.parametrize("kind", ["gain", "cost"])
def test_machines_with_different_memory_write_the_same_files(
    gpt2, tmp_path, monkeypatch, small_units, kind
):
    """And each goes on from the other's: nothing is computed again."""
    free = 2**33
    monkeypatch.setattr("steerlens.measures.engine.free_bytes", lambda device: free)
    whole = measured(kind, gpt2, tmp_path / "a")
    files = files_of(tmp_path / "a")
    assert len([name for name in files if "wavefront" in name]) >= 2
    for share in (0.9, 0.5):
        free = int(2**33 * share)
        again = measured(kind, gpt2, tmp_path / str(share))
        assert files_of(tmp_path / str(share)) == files
        assert torch.equal(again, whole)

    def computed(*arguments):
        raise AssertionError("a finished unit was computed again")

    monkeypatch.setattr("steerlens.measures.engine.Engine._unit", computed)
    assert torch.equal(measured(kind, gpt2, tmp_path / "a"), whole)


def test_only_what_is_missing_is_computed(gpt2, tmp_path, monkeypatch, small_units):
    from steerlens.measures.engine import Engine

    whole = measured("gain", gpt2, tmp_path)
    gone = sorted(tmp_path.rglob("*.safetensors"))[1]
    gone.unlink()
    computed, real = [], Engine._unit

    def unit(self, path, planned, own, numbers, *rest):
        computed.append((path.name, len(own)))
        return real(self, path, planned, own, numbers, *rest)

    monkeypatch.setattr(Engine, "_unit", unit)
    assert torch.equal(measured("gain", gpt2, tmp_path), whole)
    name, start, stop = gone.stem.split("-")
    assert computed == [(name, int(stop) - int(start))]
    assert gone.exists()


def test_units_of_other_questions_or_multipliers_are_refused(gpt2, tmp_path):
    edits = every_edit(gpt2, Positions.all())
    kept = {"cells": Cells(tmp_path, "gain"), **QUIET}
    sweep(gpt2, ONE_TOKEN, edits, MULTIPLIERS, **kept)
    with pytest.raises(DamagedFile, match="another file"):
        sweep(gpt2, SEVERAL_TOKENS, edits, MULTIPLIERS, **kept)
    with pytest.raises(DamagedFile, match="another file"):
        sweep(gpt2, ONE_TOKEN, edits, (-1.0, 0.0, 0.5, 3.0), **kept)


def test_numbers_that_are_not_finite_are_refused_and_not_kept(gpt2, tmp_path):
    edit = every_edit(gpt2, Positions.all())[0]
    cells = Cells(tmp_path, "gain")
    with pytest.raises(ValueError, match="Some log-probabilities of examples 0, 1, 2 are NaN"):
        sweep(gpt2, ONE_TOKEN, [edit], (0.0, 1e38), cells=cells, **QUIET)
    assert not files_of(tmp_path)


def test_a_plan_depends_on_the_work_alone(gpt2):
    arms = [*every_edit(gpt2, Positions.from_prompt_end()), low_rank(gpt2, 1)]
    plans = [
        plan(gpt2, ONE_TOKEN, arms, MULTIPLIERS, memory=memory) for memory in (50_000, 2**24, 2**34)
    ]
    assert plans[0] == plans[1] == plans[2]
    assert str(plans[0]) == str(plans[2])
    assert [one.is_cut for one in plans] == [True, False, False]
    assert plans[0].budget == 50_000
    assert plans[0] != plan(gpt2, ONE_TOKEN, arms[:-1], MULTIPLIERS)


def test_a_site_inside_a_block_takes_the_general_path_and_the_rest_does_not(gpt2):
    edits = every_edit(gpt2, Positions.all())
    inside = Add(
        replace(edits[0].direction, site=Site(1, "attn_out")), Positions.all(), "direction"
    )
    planned = plan(gpt2, ONE_TOKEN, [*edits, inside], MULTIPLIERS)
    assert [(path.path, path.arms) for path in planned.paths] == [
        ("wavefront", len(edits)), ("general", 1),
    ]  # fmt: skip
