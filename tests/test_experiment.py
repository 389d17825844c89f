"""Experiments as values: typed, hashed, resumable, and refusing what cannot work."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from steerlens.cli import main
from steerlens.directions.methods import PCA
from steerlens.experiment import (
    ExperimentError,
    ProbingExperiment,
    Run,
    SteerabilityExperiment,
    load_data,
    load_experiment,
    method_named,
    read_manifest,
)
from steerlens.experiment.experiment_data import load_shifts
from steerlens.models.checkpoints import save_hooked
from steerlens.results import ResultError
from steerlens.sites import Site
from steerlens.store.cells import Cells
from steerlens.store.documents import write_document
from steerlens.store.files import DamagedFile
from steerlens.store.run_folder import RunFolder
from steerlens.testbed.grammar import CONCEPTS
from tests.planted_files import write_planted


@pytest.fixture(scope="module")
def folder(planted, tmp_path_factory):
    """The planted model as a checkpoint, with its data as files."""
    return write_planted(planted, tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def experiment(folder):
    return SteerabilityExperiment(
        model=str(folder / "model"),
        contrast=str(folder / "contexts.jsonl"),
        questions=str(folder / "questions.jsonl"),
        stream="resid_pre",
        n_fit=40,
        n_choose=16,
        n_report=16,
        n_neutral=8,
        written=3,
        confirmed=8,
        attributed=3,
        strengths=11,
        samples=2,
        new_tokens=3,
    )


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    return experiment.run(tmp_path_factory.mktemp("results"), progress=False)


def test_a_run_finds_what_was_planted_and_leaves_a_page(planted, run):
    assert run.map.recommend().cell.site.layer in planted.live_layers("resid_pre")
    assert run.page.stat().st_size > 100_000
    assert "held out" in run.summary()
    assert run.samples.multipliers[0] < 0


def test_a_finished_run_is_read_back(run):
    again = Run.load(run.folder)
    assert again.summary() == run.summary()
    assert torch.equal(again.map.propensities, run.map.propensities)


def test_the_manifest_holds_everything_that_decides_the_numbers(run, experiment):
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["fields"] == json.loads(json.dumps(experiment.fields()))
    assert set(manifest["data"]) == {"fit", "choose", "report"}
    assert all(part["hash"] for part in manifest["data"].values())
    assert manifest["model"]["fingerprint"]
    assert manifest["versions"]["torch"]


def test_every_field_changes_the_digest(experiment):
    changed = {"seed": 1, "n_fit": 30, "budget": 0.2, "layers": (1, 2), "unit": "direction"}
    digests = {dataclasses.replace(experiment, **{k: v}).digest for k, v in changed.items()}
    assert len(digests | {experiment.digest}) == len(changed) + 1
    assert dataclasses.replace(experiment).digest == experiment.digest


def test_a_killed_run_goes_on_to_the_same_numbers(experiment, run, tmp_path, monkeypatch):
    save, written, most = Cells.save, [], 3

    def counted(self, *what):
        save(self, *what)
        if self.folder is not None and "cells" in self.folder.parts:  # not of the activations
            written.append(self.name)
            if len(written) == most:
                raise KeyboardInterrupt

    monkeypatch.setattr("steerlens.measures.engine.MAX_TOKENS", 512)  # several units per sweep
    monkeypatch.setattr(Cells, "save", counted)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(tmp_path, progress=False)
    folder = next(tmp_path.iterdir())
    with pytest.raises(ResultError, match="not finished"):
        Run.load(folder)
    assert len(list((folder / "cells").rglob("*.safetensors"))) == 3

    written.clear()
    most = 10**6
    resumed = experiment.run(tmp_path, progress=False)
    parts = set(written) | {"map/gain", "map/lengths", "map/ordinary"}
    everything = [path for part in parts for path in (folder / "cells" / part).glob("*.*")]
    assert len(written) == len(everything) - 3, "finished cells are not computed again"
    torch.testing.assert_close(resumed.map.propensities, run.map.propensities, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(resumed.map.shuffled, run.map.shuffled, atol=1e-5, rtol=1e-5)


def test_a_run_that_goes_on_under_other_code_says_so(experiment, run, tmp_path):
    folder = tmp_path / run.folder.name
    shutil.copytree(run.folder, folder)
    manifest = read_manifest(folder)
    manifest["versions"]["torch"] = "0.4"
    write_document(folder / "manifest.json", manifest)
    with RunFolder.open(folder) as opened:
        opened.finish()
    assert experiment.run(tmp_path, progress=False).folder == folder, "finished: nothing to say"
    (folder / "map.json").unlink()
    with pytest.warns(UserWarning, match="versions.torch was '0.4'"):
        experiment.run(tmp_path, progress=False)


def test_a_results_folder_of_another_model_is_refused_and_kept(experiment, run, planted, folder):
    weights = planted.model.W_E.detach().clone()
    before = sorted((p.name, p.stat().st_mtime_ns) for p in run.folder.iterdir())
    try:
        with torch.no_grad():
            planted.model.embed.W_E[5, 5] += 0.01
        save_hooked(planted.model, folder / "model")
        with pytest.raises(ResultError, match="other model: fingerprint was '\\w+' and is"):
            experiment.run(run.folder.parent, progress=False)
    finally:
        with torch.no_grad():
            planted.model.embed.W_E.copy_(weights)
        save_hooked(planted.model, folder / "model")
    assert sorted((p.name, p.stat().st_mtime_ns) for p in run.folder.iterdir()) == before


@pytest.mark.parametrize("lost", [("map.safetensors", "probe.json"), "cells"])
def test_what_was_lost_or_damaged_is_repaired_as_the_message_says(experiment, run, tmp_path, lost):
    folder = tmp_path / run.folder.name
    shutil.copytree(run.folder, folder)
    if lost == "cells":
        (folder / "map.json").unlink()
        # A unit of the map: those of finished results are not read again.
        damaged = min((folder / "cells" / "map").rglob("*.safetensors"))
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises((ResultError, DamagedFile), match="is damaged.*Delete this file"):
            experiment.run(tmp_path, progress=False)
        damaged.unlink()
    else:
        for name in lost:
            (folder / name).unlink()
    again = experiment.run(tmp_path, progress=False)
    assert torch.equal(again.map.propensities, run.map.propensities)


def test_a_folder_that_is_no_run_is_refused_and_kept(experiment, tmp_path):
    taken = tmp_path / f"steerability-{experiment.digest}"
    taken.mkdir()
    (taken / "thesis.txt").write_text("precious")
    with pytest.raises(ResultError, match="not a run of steerlens"):
        experiment.run(tmp_path, progress=False)
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]


def test_probing_alone_runs_and_reports(folder, tmp_path):
    run = ProbingExperiment(
        model=str(folder / "model"),
        contrast=str(folder / "contexts.jsonl"),
        n_fit=30,
        controls=2,
    ).run(tmp_path, progress=False)
    assert set(run.results) == {"probe"}
    assert float(run.probe.auroc.min()) > 0.9
    assert run.page.exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Everything that an experiment can measure, small, on the reference model."""
    experiment = SteerabilityExperiment(
        layers=(3, 6),
        n_fit=60,
        n_choose=24,
        n_report=12,
        n_neutral=16,
        nulls=19,
        budget=0.3,
        written=3,
        new_tokens=4,
        attributed=2,
        strengths=11,
        shifts=("here is a phone . {prompt}",),
    )
    return experiment.run(tmp_path_factory.mktemp("whole"), progress=False)


def test_a_run_says_what_steering_costs_how_far_it_goes_and_where_it_carries_over(whole):
    cell = whole.map.recommend().cell
    assert whole.writing.sites == whole.map.sites
    assert (
        float(whole.writing.change("surprisal").mean[:, whole.map.multipliers == 0].abs().max())
        == 0
    )
    assert float(whole.decay.multipliers.max()) == 2.0
    assert whole.decay.preference.r2 > 0.9
    assert whole.shift.matched == ("here is a phone . {prompt}",)
    assert set(whole.spillover.sets) == {"sentiment in reviews", "register", "truth"}
    assert whole.spillover.rows == (str(cell.site),)
    words = whole.summary()
    assert all(word in words for word in ("writing", "shifted", "how far", "other concepts"))
    assert whole.written.cells[0] == cell and whole.map.recommend().written is not None
    assert f"in writing      {whole.map.recommend().written}" in words
    page = whole.page.read_text()
    assert all(
        f'id="{part}"' in page for part in ("decay", "writing", "written", "shift", "spillover")
    )


def test_unrelated_directions_are_asked_about_the_contrast(whole):
    found = whole.spillover
    assert set(found.unrelated) == {"register", "truth"}
    own = float(found.gains(found.targets[0])[0, -1].mean())
    others = [float(m[0].max()) for m, _, _ in found.unrelated_interval.values()]
    assert max(others) < 0.5 * own
    assert "The other way round:" in whole.page.read_text()


def test_a_run_without_a_cell_to_use_writes_texts_all_the_same(tmp_path):
    experiment = SteerabilityExperiment(
        layers=(3, 6), n_fit=20, n_choose=8, n_report=8, n_neutral=8, nulls=0, unit="resid_norm",
        multipliers=(0.0, 0.5), budget=0.0, written=2, written_layers=(6,), new_tokens=3, samples=1,
        confirmed=0,
    )  # fmt: skip
    run = experiment.run(tmp_path, progress=False)
    assert run.map.chosen is None and run.writing.sites == (Site(6),)
    assert set(run.results) == {"map", "probe", "writing", "shift", "samples"}
    assert run.samples.multipliers == (-0.5, 0.0, 0.5, 1.0)
    assert "No cell was chosen; L" in run.page.read_text()
    with pytest.raises(ExperimentError, match="written_layers holds 5, which is not among"):
        dataclasses.replace(experiment, written_layers=(5,)).run(tmp_path)


def test_all_that_a_run_measured_is_read_back(whole):
    again = Run.load(whole.folder)
    assert again.summary() == whole.summary()
    assert again.writing.texts == whole.writing.texts
    assert torch.equal(again.decay.utilities, whole.decay.utilities)
    assert again.decay.summary() == whole.decay.summary()


def test_the_manifest_names_the_data_of_every_part(whole):
    assert set(whole.manifest["data"]) >= {"fit", "choose", "report", "register", "truth"}


@pytest.mark.parametrize("field", ["others", "shifts"])
def test_a_missing_file_of_other_questions_is_refused_before_any_work(field, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        SteerabilityExperiment(**{field: (str(tmp_path / "nowhere.json"),)}).run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_reference_world_gives_three_parts_that_share_no_question():
    data = load_data("reviews/sentiment", None, (50, 40, 40), 8, seed=0)
    texts = {text for pair in data.fit for text in (pair.positive, pair.negative)}
    chosen, held = ({pair.prompt for pair in part} for part in (data.choose, data.report))
    assert (len(data.fit), len(chosen), len(held), len(data.neutral)) == (50, 40, 40, 8)
    assert not chosen & held
    assert not texts & (chosen | held)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_shifted_questions_are_in_no_other_part(concept):
    data = load_data(f"reviews/{concept}", None, (50, 40, 40), 8, seed=0)
    in_distribution, shifted_sets = load_shifts(f"reviews/{concept}", None, data, 40, seed=0)
    assert {"restaurant", "hotel", "negated"} <= set(shifted_sets)
    known = {key for part in (*data[:3], in_distribution) for pair in part for key in pair.keys}
    for name, shifted in shifted_sets.items():
        assert len(shifted) >= 20, name
        assert known.isdisjoint(key for pair in shifted for key in pair.keys), name


def test_texts_without_questions_are_refused_before_any_work(folder, tmp_path):
    with pytest.raises(ExperimentError, match="Give questions="):
        SteerabilityExperiment(
            model=str(folder / "model"), contrast=str(folder / "contexts.jsonl")
        ).run(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"multipliers": (1.0, 2.0)}, "has no 0.0"),
        ({"n_choose": 1}, "at least two examples"),
        ({"layers": ()}, "at least one layer"),
        ({"seed": -1}, "seed=-1 is too small. Use at least 0"),
        ({"budget": -0.1}, "budget=-0.1 is too small"),
        ({"new_tokens": 1}, "new_tokens=1 is too small. Use at least 2"),
        ({"n_neutral": 3}, "at least 4 ordinary texts"),
        ({"nulls": 3}, "at least 19"),
        ({"strengths": 12}, "odd number of at least 11"),
        ({"written": 1}, "at least two prompts"),
        ({"written_layers": ()}, "written_layers=\\(\\): name at least one layer"),
    ],
)
def test_an_experiment_that_cannot_work_is_refused_when_it_is_written(fields, message):
    with pytest.raises(ValueError, match=message):
        SteerabilityExperiment(**fields)


def test_too_few_ordinary_texts_are_refused_before_anything_is_written(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("the hotel was lovely and the staff kind\nthe book was dull\n")
    with pytest.raises(ValueError, match="2 neutral texts are 2 groups.*Give more texts"):
        SteerabilityExperiment(neutral=str(texts)).run(tmp_path / "results", progress=False)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("rule", ["answer", "span", "everywhere"])
def test_positions_that_cannot_be_steered_by_name_are_refused(unchecked, rule):
    with pytest.raises(ExperimentError, match="cannot be steered by name. Use one of all, last"):
        SteerabilityExperiment(positions=rule)


def test_equal_values_give_equal_runs(unchecked):
    plain = SteerabilityExperiment(layers=(1, 2), seed=3, multipliers=(0.0, 1.0), method=PCA())
    other = SteerabilityExperiment(
        layers=range(1, 3), seed=np.int64(3), multipliers=np.array([0, 1]), method="PCA"
    )
    assert other == plain and other.digest == plain.digest


def test_methods_are_found_by_name_and_by_import_path():
    assert repr(method_named("LDA")) == "LDA()"
    assert repr(method_named("steerlens.directions.methods.pca:PCA")) == "PCA(centred=False)"
    with pytest.raises(ExperimentError, match="there is no method 'Magic'.*write module:Name"):
        method_named("Magic")


@pytest.mark.parametrize("label", ["Logistic(c=0.1, max_iter=1000)", "PCA(centred=True)", "LDA()"])
def test_a_method_is_found_by_the_label_that_prints_it(label):
    assert repr(method_named(label)) == label
    module = "steerlens.directions.methods"
    assert repr(method_named(f"{module}:{label}")) == label


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Logistic(0.1)", "arguments by name"),
        ("Logistic(c=open('x'))", "is not the name of a method"),
        ("Logistic(x=3)", "unexpected keyword argument 'x'"),
        ("nowhere:X", "No module named 'nowhere'"),
        ("math:pi", "is not a method"),
        ("os:getcwd(1)", "is not the name of a method"),
    ],
)
def test_a_method_that_cannot_be_made_is_refused_and_nothing_is_evaluated(text, said):
    with pytest.raises(ExperimentError, match=said):
        method_named(text)


# The command line


@pytest.fixture
def script(folder, tmp_path):
    path = tmp_path / "question.py"
    path.write_text(
        "from steerlens.experiment import ProbingExperiment\n"
        f"experiment = ProbingExperiment(model={str(folder / 'model')!r}, "
        f"contrast={str(folder / 'contexts.jsonl')!r}, n_fit=30, controls=2)\n"
    )
    return path


def test_what_texts_start_with_can_be_chosen_and_is_stated(script, tmp_path):
    experiment = load_experiment(script)
    shown = {}
    for chosen in (None, False):
        run = dataclasses.replace(experiment, prepend_bos=chosen).run(tmp_path, progress=False)
        manifest = json.loads((run.folder / "manifest.json").read_text())
        assert manifest["fields"]["prepend_bos"] is chosen
        shown[chosen] = (manifest["model"]["bos"], run.page.read_text(encoding="utf-8"))
    assert shown[None][0] is True and "yes, by default" in shown[None][1]
    assert shown[False][0] is False and "no, chosen" in shown[False][1]


def test_the_command_line_overrides_fields_by_their_types(script, tmp_path, capsys):
    results = tmp_path / "out"
    words = ["run", str(script), "--seed", "3", "--layers", "0", "2", "--method", "LDA"]
    assert main([*words, "--results", str(results)]) == 0
    folder = next(results.iterdir())
    fields = json.loads((folder / "manifest.json").read_text())["fields"]
    assert (fields["seed"], fields["layers"], fields["method"]) == (3, [0, 2], "LDA()")
    assert folder.name.startswith("question-")
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    assert "AUROC" in capsys.readouterr().out
    assert main(["list", str(results)]) == 0
    listed = capsys.readouterr().out.splitlines()[-1]
    assert listed.startswith("finished") and listed.endswith(str(folder))
    assert main(["list", str(folder)]) == 0
    assert "It is a run itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "missing.py"], "is not a file"),
        (["show", "nowhere"], "is not a run"),
        (["list", "nowhere"], "There is no folder nowhere"),
        (["fly"], "no command"),
        (["run"], "name the file"),
    ],
)
def test_a_users_error_is_one_line_and_status_2(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_script_without_an_experiment_is_refused(tmp_path, capsys):
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert main(["run", str(tmp_path / "empty.py")]) == 2
    assert "defines no `experiment`" in capsys.readouterr().err


def test_a_model_folder_that_does_not_exist_is_refused_quickly(tmp_path):
    with pytest.raises(ValueError, match="."):
        SteerabilityExperiment(model=str(tmp_path / "nothing")).run(tmp_path)


def test_a_layer_the_model_does_not_have_is_refused_before_any_work(folder, tmp_path):
    with pytest.raises(ValueError, match="Layer 40 is not in"):
        ProbingExperiment(
            model=str(folder / "model"), contrast=str(folder / "contexts.jsonl"), layers=(40,)
        ).run(tmp_path)
    assert not list(tmp_path.iterdir())
