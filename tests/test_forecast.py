"""What a plan counts is what is computed, and a forecast of an experiment says what to leave out."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from steerlens.cli import main
from steerlens.experiment import SteerabilityExperiment
from steerlens.experiment.forecast import Forecast, ForecastPart
from steerlens.measures import sweep as sweep_module
from steerlens.measures.divergence import cost_work, divergence
from steerlens.measures.generation import generated_tokens
from steerlens.measures.sweep import plan, sweep
from steerlens.models.speed import Speed, Work, speed_of, writing_steps
from steerlens.sites import Positions
from tests.grids import MULTIPLIERS, ONE_TOKEN, SEVERAL_TOKENS, every_edit
from tests.strangers import low_rank

TEXTS = [
    "the cat sat on the bed and a dog ran",
    "he said that the soup was good . she ran here now",
]


def multiply_adds(model, work):
    """Of counted work: the matrices of a block, attention, and the unembedding."""
    cfg = model.cfg
    queries, keys = cfg.n_heads * cfg.d_head, (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    weights = cfg.d_model * (2 * queries + 2 * keys + cfg.d_mlp * (2 + cfg.gated_mlp))
    read = cfg.d_model * cfg.d_vocab * work.states
    return weights * work.tokens + 2 * queries * work.pairs + read


def counted(run):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("asked", [ONE_TOKEN, SEVERAL_TOKENS], ids=["one token", "several"])
@pytest.mark.parametrize("kind", ["prompt end", "all", "stranger"])
@pytest.mark.parametrize("odds", [True, False])
def test_a_plan_counts_what_a_sweep_computes(gpt2, asked, kind, odds):
    positions = Positions.all() if kind == "all" else Positions.from_prompt_end()
    edits = [low_rank(gpt2, 1)] if kind == "stranger" else every_edit(gpt2, positions)
    options = {"log_odds_only": odds}
    work = plan(gpt2, asked, edits, MULTIPLIERS, **options).work
    done = counted(lambda: sweep(gpt2, asked, edits, MULTIPLIERS, progress=False, **options))
    assert multiply_adds(gpt2, work) == pytest.approx(done, rel=0.2)


def test_the_work_of_a_cost_is_counted(gpt2):
    edits = every_edit(gpt2, Positions.from_prompt_end())
    work = cost_work(gpt2, TEXTS, edits, MULTIPLIERS)
    done = counted(lambda: divergence(gpt2, TEXTS, edits, MULTIPLIERS, progress=False))
    assert multiply_adds(gpt2, work) == pytest.approx(done, rel=0.2)


def test_the_work_of_writing_is_counted(gpt2):
    prompts = ["the cat sat on the", "he said that the soup"]
    work = writing_steps(gpt2.n_layers, 2, gpt2.tokens(prompts).width, 12)
    done = counted(lambda: generated_tokens(gpt2, prompts, max_new_tokens=12, stop_at_eos=False))
    assert multiply_adds(gpt2, work) == pytest.approx(done, rel=0.2)


def test_a_plan_says_seconds_and_equal_plans_may_differ_in_them(gpt2, monkeypatch):
    edits = every_edit(gpt2, Positions.all())
    found = {}
    for factor in (1.0, 3.0):
        speed = Speed(*(factor * x for x in (1e-3, 1e-5, 1e-8, 1e-4)))
        monkeypatch.setattr(sweep_module, "speed_of", lambda *_, speed=speed: speed)
        found[factor] = plan(gpt2, ONE_TOKEN, edits, MULTIPLIERS)
    assert found[1.0] == found[3.0]
    assert found[3.0].seconds == pytest.approx(3 * found[1.0].seconds)
    assert f"about {found[1.0].seconds:.2g} s" in str(found[1.0])


def test_speed_is_measured_once_and_is_positive(tiny):
    speed = speed_of(tiny)
    assert speed_of(tiny) is speed
    assert speed.token > 0 and speed.state > 0 and speed.block >= 0
    assert speed.seconds(Work(1, 2, 3, 4) + Work(1, 0, 0, 0) * 2) == pytest.approx(
        3 * speed.block + 2 * speed.token + 3 * speed.pair + 4 * speed.state
    )


def test_a_forecast_says_what_to_leave_out():
    made = Forecast(
        (
            ForecastPart("map", 20.0),
            ForecastPart("null maps", 100.0, "nulls 0", at_most=True),
            ForecastPart("writing", 60.0, "written 0"),
        )
    )
    assert made.within(180) == ()
    assert [part.without for part in made.within(90)] == ["nulls 0"]
    assert [part.without for part in made.within(25)] == ["nulls 0", "written 0"]
    with pytest.raises(ValueError, match="cannot be left out takes about 20 s"):
        made.within(10)
    assert "at most 1 min 40 s  --nulls 0" in str(made)
    assert made.line().startswith("about 3 min on this machine (null maps 1 min 40 s, writing")


def test_a_part_that_is_left_out_is_not_in_the_forecast(capsys, tmp_path):
    lean: dict[str, Any] = {
        "nulls": 0,
        "written": 0,
        "confirmed": 0,
        "attributed": 0,
        "strengths": 0,
    }
    few: dict[str, Any] = {
        "layers": (4,), "n_fit": 20, "n_choose": 8, "n_report": 8, "n_neutral": 8, "confirmed": 4,
        "shifts": (), "others": (),
    }  # fmt: skip
    whole = SteerabilityExperiment(**few)
    model = whole.load_model()
    names = {part.name: part for part in whole.forecast(model).parts}
    left = SteerabilityExperiment(**few | lean).forecast(model)
    gone = set(names) - {part.name for part in left.parts}
    assert gone == {part.name for part in names.values() if part.without.endswith(" 0")}
    assert {part.without for part in names.values()} >= {f"{name} 0" for name in lean}

    path = tmp_path / "planned.py"
    path.write_text(
        "from steerlens.experiment import SteerabilityExperiment\n"
        f"experiment = SteerabilityExperiment(**{few})\n"
    )
    assert main(["run", str(path), "--plan", "--results", str(tmp_path / "results")]) == 0
    assert "null maps" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
