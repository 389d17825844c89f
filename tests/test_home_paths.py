"""Every path that a user gives may begin with "~", where files are written and where they are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from steerlens import plots
from steerlens.cli import main
from steerlens.experiment import Run, load_data
from steerlens.grid import GridRuns, run_grid
from steerlens.models.checkpoints import (
    CheckpointError,
    checkpoint_kind,
    load_gguf,
    load_hf_directory,
    load_hf_model,
    load_hooked,
    save_hooked,
)
from steerlens.models.model import Model
from steerlens.saes.sae import SAE
from steerlens.sites import Site
from steerlens.store.run_folder import RunFolder, finished_files, is_empty, is_finished, verify
from tests.handmade_saes import handmade, random_rows
from tests.stranger_experiment import Separation, experiment
from tests.test_run_grid import Here

SCRIPT = Path(__file__).parent / "stranger_experiment.py"
SMALL = replace(experiment, layers=(1,), n_fit=8)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The home folder; nothing may be written into the working folder, which is another."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    yield home
    assert not list(elsewhere.iterdir())


@pytest.fixture(scope="module")
def pairs():
    return load_data("reviews/sentiment", None, (16, 4, 4), 1, 0).fit


@pytest.fixture
def separation():
    distances = torch.tensor([[1.0, 3.0], [2.0, 5.0]])
    return Separation((Site(0), Site(1)), distances, {"data": "two pairs"})


def test_a_model(home, gpt2):
    assert gpt2.save("~/made/model") == home / "made" / "model"
    loaded = Model.load("~/made/model")
    assert loaded.fingerprint == gpt2.fingerprint


def test_a_checkpoint(home, gpt2):
    assert save_hooked(gpt2.wrapped, "~/model") == home / "model"
    assert checkpoint_kind("~/model") == "hooked"
    assert torch.equal(load_hooked("~/model").W_U, gpt2.wrapped.W_U)


@pytest.mark.parametrize("load", [load_hf_directory, load_hf_model, load_gguf])
def test_what_cannot_be_loaded_is_named_by_its_whole_path(load, home):
    (home / "broken").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(CheckpointError, match=str(home / "broken")):
        load("~/broken")


def test_a_result_and_its_figure(home, separation):
    assert separation.save("~/found") == home / "found"
    assert torch.equal(Separation.load("~/found").distances, separation.distances)
    assert separation.save_plot("~/figures/one.html") == home / "figures" / "one.html"
    assert plots.write_figure(separation.plot(), "~/two.html") == home / "two.html"
    assert (home / "figures" / "one.html").is_file() and (home / "two.html").is_file()


def test_an_sae(home):
    made = handmade(random_rows(8, 4), Site(1))
    assert made.save("~/sae") == home / "sae"
    assert SAE.load("~/sae").fingerprint == made.fingerprint


def test_the_folder_of_a_run(home):
    assert is_empty("~/run")
    with RunFolder.open("~/run") as folder:
        (folder.path / "found.txt").write_text("a")
        folder.finish()
    assert not is_empty("~/run") and is_finished("~/run") and not verify("~/run")
    assert list(finished_files("~/run")) == ["found.txt"]
    (home / "run" / "found.txt").write_text("b")
    assert "damaged" in verify("~/run")[0]


def test_a_run(home):
    run = SMALL.run("~/results", progress=False)
    assert run.folder.parent == home / "results"
    assert run.folder == SMALL.run_folder("~/results")
    again = Run.load(f"~/results/{run.folder.name}", [Separation])
    assert torch.equal(again.separation.distances, run.separation.distances)
    (figure,) = again.save_figures("~/figures", format="html")
    assert figure.parent == home / "figures" and figure.is_file()


def test_a_grid(home):
    made = run_grid(SMALL, {"power": (1.0, 2.0)}, results="~/grid", on=Here(), progress=False)
    assert not made.failed and made.folder.parent == home / "grid"
    read = GridRuns.load(f"~/grid/{made.folder.name}")
    assert [run.folder for run in read.runs] == [run.folder for run in made.runs]


@pytest.mark.parametrize("option", [["--results", "~/results"], ["--results=~/results"]])
def test_the_command_line(home, option, capsys):
    (home / "mine.py").write_text(SCRIPT.read_text("utf-8"), "utf-8")
    words = ["run", "~/mine.py", "--layers", "1", "--n-fit", "8", *option]
    assert main(words) == 0
    printed = capsys.readouterr().out
    (folder,) = (home / "results").iterdir()
    assert main(words) == 0
    again = capsys.readouterr()
    assert again.out == printed and again.err == f"steerlens: already finished in {folder}\n"
    assert main(["list", "~/results"]) == 0
    assert str(folder) in capsys.readouterr().out
    assert main(["show", f"~/results/{folder.name}"]) == 0
    assert "farthest apart" in capsys.readouterr().out


def test_a_run_whose_data_at_home_have_changed_is_not_said_to_be_finished(home, pairs, capsys):
    pairs.subset(12, 0).save("~/pairs.jsonl")
    words = ["run", str(SCRIPT), "--layers", "1", "--contrast", "~/pairs.jsonl", "--results", "~/r"]
    assert main(words) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "already finished" in capsys.readouterr().err
    pairs.subset(12, 1).save("~/pairs.jsonl")
    assert main(words) == 2
    said = capsys.readouterr()
    assert "already finished" not in said.err and "farthest apart" not in said.out
    assert "data" in said.err
