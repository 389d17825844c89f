"""SAE experiments: from two files and a folder of SAEs to a page, resumable, refusing what is wrong."""

import dataclasses
import shutil

import pandas
import pytest
import torch

from steerlens.analyses.confirmation.contexts import ContextError, Contexts
from steerlens.analyses.features.comparison_writing import written_arms
from steerlens.directions.methods import PCA
from steerlens.experiment import ExperimentError, Run, SAEExperiment
from steerlens.measures.reading import activations
from steerlens.measures.sweep import sweep
from steerlens.models.checkpoints import save_hooked
from steerlens.models.model import Model
from steerlens.results import ResultError
from steerlens.saes.sae import SAE, SAEError
from steerlens.sites import Positions, Site
from tests.handmade_saes import handmade, planted_rows, random_rows
from tests.planted_files import write_planted

LIVE, DEAD = Site(2, "resid_pre"), Site(4, "resid_pre")


@pytest.fixture(scope="module")
def folder(planted, tmp_path_factory):
    """The planted model, its data, and SAEs where it can and where it cannot be steered."""
    root = write_planted(planted, tmp_path_factory.mktemp("planted"))
    model = Model.load(root / "model")
    for site in (LIVE, DEAD):
        made = handmade(planted_rows(planted), site)
        stated = {"fingerprint": model.fingerprint, "processing": model.processing}
        dataclasses.replace(made, **stated).save(root / "saes" / site.hook)
    return root


@pytest.fixture(scope="module")
def experiment(folder):
    return SAEExperiment(
        model=str(folder / "model"),
        contrast=str(folder / "contexts.jsonl"),
        questions=str(folder / "questions.jsonl"),
        saes=str(folder / "saes"),
        n_fit=40,
        n_choose=12,
        n_report=12,
        n_neutral=8,
        k=2,
        nulls=19,
        targeted=0,
        confirmed=4,
        new_tokens=3,
    )


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    return experiment.run(tmp_path_factory.mktemp("results"), progress=False)


def test_a_run_finds_the_feature_that_was_planted(run):
    numbers = run.comparison.at_equal_kl
    arm = numbers.arms.index("feature by contrast")
    assert run.comparison.sites == (LIVE, DEAD)
    assert numbers.site("feature by contrast") == 0
    assert (int(numbers.features[arm, 0]), int(numbers.signs[arm, 0])) == (0, 1)
    assert numbers.gain("feature by contrast").low > 0
    assert numbers.p_value("feature by contrast", "random direction") == 0.05


def test_the_arms_that_write_are_those_that_were_compared(run, experiment):
    """Made again from what the comparison stores, they gain what it says."""
    model = experiment.load_model()
    inputs = experiment.load(model)
    read = activations(model, inputs.fit, [sae.site for sae in inputs.saes], progress=False)
    positions = Positions.from_prompt_end()
    arms, cells = written_arms(run.comparison, inputs.saes, read, positions)
    assert set(arms) == {"feature by contrast", "feature by effect", "DiffMean"}
    numbers = run.comparison.at_equal_kl
    odds = sweep(model, inputs.report, list(arms.values()), [0.0, 1.0], progress=False).log_odds
    for name, gains, cell in zip(arms, odds[:, 1] - odds[:, 0], cells, strict=True):
        torch.testing.assert_close(gains, numbers.examples(name), atol=1e-4, rtol=0)
        assert cell == (name, 1.0, run.comparison.sites[numbers.site(name)])


def test_what_the_arms_write_stands_beside_their_gains(run):
    assert [cell.row for cell in run.written.cells] == [
        "feature by contrast", "feature by effect", "DiffMean",
    ]  # fmt: skip
    assert len(run.written.prompts) == 4
    assert "What is written" in run.summary() and 'id="written"' in run.page.read_text()


def test_without_contexts_the_run_says_why_no_texts_were_read(experiment, tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise ContextError("No pair can be a context.")

    monkeypatch.setattr(Contexts, "from_pairs", refused)
    run = dataclasses.replace(experiment, nulls=0).run(tmp_path, progress=False)
    assert "what is written was not looked at: No pair can be a context." in run.summary()
    assert "written" not in run.results


def test_one_prompt_is_refused(experiment):
    with pytest.raises(ExperimentError, match="confirmed=1: an interval needs at least two"):
        dataclasses.replace(experiment, confirmed=1)


def test_a_run_says_what_it_found_and_leaves_a_page(run):
    assert "feature by contrast (L2 resid_pre, +0)" in run.summary()
    page = run.page.read_text()
    assert 'id="comparison"' in page and "random direction by effect" in page
    rows = pandas.read_csv(run.folder / "comparison.csv")
    numbers = run.comparison.at_equal_kl
    layers, costs = 2 + 1, 2  # the best layer of each arm has a row as well
    assert len(rows) == costs * layers * (len(numbers.arms) + len(numbers.controls))
    at_live = rows[(rows.cost == "kl") & (rows.arm == "random direction") & (rows.layer == "2")]
    assert at_live.gain.item() == pytest.approx(numbers.gain("random direction", 0).value)
    best = rows[(rows.cost == "kl") & (rows.arm == "feature by contrast") & (rows.layer == "best")]
    assert (best.feature.item(), best.sign.item()) == (0, 1)
    assert best.p_random_direction.item() == pytest.approx(0.05)


def test_a_finished_run_is_read_back(experiment, run):
    again = Run.load(run.folder)
    assert again.summary() == run.summary()
    assert experiment.run(run.folder.parent, progress=False).folder == run.folder


def test_a_killed_run_goes_on_to_the_same_numbers(experiment, run, tmp_path, monkeypatch):
    import steerlens.analyses.features.compare_features as module

    whole, asked = module._at_one_site, []

    def killed(model, sae, *arguments, **named):
        asked.append(sae.site)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return whole(model, sae, *arguments, **named)

    monkeypatch.setattr(module, "_at_one_site", killed)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(tmp_path, progress=False)
    resumed = experiment.run(tmp_path, progress=False)
    assert asked == [LIVE, DEAD, DEAD], "what was found is not searched for again"
    for name, values in run.comparison.at_equal_kl.tensors().items():
        found = resumed.comparison.at_equal_kl.tensors()[name]
        torch.testing.assert_close(found, values, equal_nan=True, atol=0, rtol=0)


def test_saes_that_changed_since_the_run_began_are_refused(experiment, folder, run, tmp_path):
    shutil.copytree(run.folder.parent, tmp_path / "results")
    saes = tmp_path / "saes"
    shutil.copytree(folder / "saes", saes)
    one = SAE.load(folder / "saes" / LIVE.hook)
    with torch.no_grad():
        one.wrapped.b_enc += 0.01
    try:
        one.save(folder / "saes" / LIVE.hook)
        with pytest.raises(ResultError, match="other saes: blocks.2.hook_resid_pre.hash"):
            experiment.run(tmp_path / "results", progress=False)
    finally:
        shutil.rmtree(folder / "saes")
        shutil.copytree(saes, folder / "saes")


def test_a_layer_alone_gives_the_numbers_of_all(experiment, run, tmp_path):
    alone = dataclasses.replace(experiment, layers=(2,)).run(tmp_path, progress=False)
    for name, values in alone.comparison.at_equal_kl.tensors().items():
        together = run.comparison.at_equal_kl.tensors()[name]
        if values.ndim > 1:
            together = together.narrow(2 if name.startswith("control_") else 1, 0, 1)
        torch.testing.assert_close(values, together, equal_nan=True, atol=1e-4, rtol=1e-4)


def test_comparisons_of_other_questions_are_not_joined(run):
    other = dataclasses.replace(
        run.comparison, made_by={**run.comparison.made_by, "report": "another"}
    )
    with pytest.raises(ValueError, match="differ in report"):
        type(run.comparison).joined([run.comparison, other])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": PCA()}, "compared with DiffMean"),
        ({"nulls": 5}, "at least 19"),
        ({"k": 0}, "at least one for each arm"),
        ({"budget": 0.0}, "budget=0.0 is not a cost"),
        ({"utility_drop": -1.0}, "utility_drop=-1.0 is not a cost"),
        ({"targeted": 3}, "too few to learn effects from"),
    ],
)
def test_fields_that_cannot_work_are_refused_at_once(experiment, change, said):
    with pytest.raises(ExperimentError, match=said):
        dataclasses.replace(experiment, **change)


def test_positions_that_cannot_be_steered_by_name_are_refused(unchecked, experiment):
    with pytest.raises(ExperimentError, match="cannot be steered by name"):
        dataclasses.replace(experiment, positions="span")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"saes": "nowhere"}, ExperimentError, "neither 'reviews' nor a folder"),
        ({"layers": (1,)}, ExperimentError, "no SAE at layers"),
        ({"saes": "reviews", "layers": (0,)}, SAEError, "reviews"),
    ],
)
def test_saes_that_do_not_fit_are_refused_before_anything_is_written(
    experiment, tmp_path, change, error, said
):
    with pytest.raises(error, match=said):
        dataclasses.replace(experiment, **change).run(tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


class OnAnotherDevice(Model):
    """As much of a model on a GPU as loading SAEs asks for."""

    device = torch.device("cuda", 1)
    n_layers = 2


@pytest.mark.parametrize("saes", ["reviews", "a release", "a folder"])
def test_saes_are_loaded_where_and_in_the_precision_in_which_the_model_computes(
    experiment, folder, monkeypatch, saes
):
    asked = []

    def load(source, sae_id=None, **where):
        asked.append(where)
        return made

    made = handmade(random_rows(3, 8), LIVE)
    monkeypatch.setattr(SAE, "load", load)
    monkeypatch.setattr(SAE, "require_fits", lambda self, model: None)
    named = {
        "reviews": {"saes": "reviews"},
        "a release": {"saes": "release", "sae_ids": ("one", "two")},
        "a folder": {"saes": str(folder / "saes")},
    }[saes]
    model = OnAnotherDevice.__new__(OnAnotherDevice)
    dataclasses.replace(experiment, dtype="bfloat16", **named).load_saes(model)
    assert asked == [{"device": torch.device("cuda", 1), "dtype": torch.bfloat16}] * 2


def test_a_run_in_half_precision_reads_its_saes_in_half_precision(folder, experiment):
    half = dataclasses.replace(experiment, dtype="bfloat16")
    for site in (LIVE, DEAD):  # they state the hash of the weights in full precision
        stated = SAE.load(folder / "saes" / site.hook)
        dataclasses.replace(stated, fingerprint="").save(folder / "unhashed" / site.hook)
    model = half.load_model()
    found = dataclasses.replace(half, saes=str(folder / "unhashed")).load_saes(model)
    assert [sae.W_dec.dtype for sae in found] == [torch.bfloat16] * 2


def test_an_sae_whose_model_was_trained_on_is_refused(experiment, folder, planted, tmp_path):
    changed = tmp_path / "model"
    shutil.copytree(folder / "model", changed)
    weights = planted.model.W_E.detach().clone()
    try:
        with torch.no_grad():
            planted.model.embed.W_E[5, 5] += 0.01
        save_hooked(planted.model, changed)
    finally:
        with torch.no_grad():
            planted.model.embed.W_E.copy_(weights)
    with pytest.raises(SAEError, match="other weights"):
        dataclasses.replace(experiment, model=str(changed)).run(tmp_path / "r", progress=False)
