"""The probe against planted truth: the contrast can be read everywhere, shuffled labels nowhere."""

from dataclasses import replace

import pytest
import torch

from steerlens.analyses.probe.measure_probe import probe
from steerlens.analyses.probe.probe_map import ProbeMap
from steerlens.directions.methods import Logistic
from steerlens.measures.reading import activations
from steerlens.models.model import Model
from steerlens.report.section import Figure, Table
from steerlens.sites import Site
from steerlens.store.cells import Cells


@pytest.fixture(scope="module")
def read(planted, planted_data):
    model = Model(planted.model)
    return activations(model, planted_data[0], model.sites("resid_pre"), progress=False)


@pytest.fixture(scope="module")
def found(read):
    return probe(read, controls=2, progress=False)


def test_the_probe_reads_the_contrast_and_shuffled_labels_read_nothing(read):
    found = probe(read, progress=False)
    assert float(found.auroc.min()) > 0.99
    # Pairs of one opening share their coin, so a single control has few independent labels.
    assert float((found.control_auroc.mean(0) - 0.5).abs().max()) < 0.1


def test_a_probe_survives_saving_and_loading(read, tmp_path):
    found = probe(read, controls=2, progress=False)
    loaded = ProbeMap.load(found.save(tmp_path))
    assert torch.equal(loaded.scores, found.scores)
    assert loaded.best == found.best


def test_too_few_questions_for_the_folds_are_refused(read):
    few = replace(read, groups=("one",) * len(read))
    with pytest.raises(ValueError, match="cannot be dealt into 5 folds"):
        probe(few)


def test_a_question_is_never_in_two_folds(read):
    """With a leak, memorised groups would lift the control; here each group is one label away."""
    found = probe(read, Logistic(), folds=4, controls=3, progress=False)
    assert found.scores.isfinite().all()
    assert isinstance(repr(found), str)


def test_the_table_has_a_row_for_each_site(found, tmp_path):
    frame = found.to_frame()
    assert frame["layer"].tolist() == list(range(6)) and set(frame["stream"]) == {"resid_pre"}
    assert frame["auroc"].tolist() == found.auroc.tolist()
    assert bool((frame["accuracy_low"] <= frame["accuracy"]).all())
    assert (found.save(tmp_path) / "probe.csv").exists()
    scores = found.to_xarray()["scores"]
    assert scores.dims == ("site", "pair", "side")
    assert scores.coords["side"].values.tolist() == ["positive", "negative"]


class Counted:
    """`Logistic` that counts how often it is fitted."""

    def __init__(self) -> None:
        self.fits = 0

    def __call__(self, positive, negative):
        self.fits += 1
        return Logistic()(positive, negative)


def test_a_stopped_probe_goes_on_to_the_same_numbers(read, found, tmp_path):
    cells, method = Cells(tmp_path), Counted()
    probe(read, method, controls=1, progress=False, cells=cells)
    assert method.fits == 2 * 5 * 6
    again = probe(read, method, controls=2, progress=False, cells=cells)
    assert method.fits == 3 * 5 * 6, "only the second control is computed"
    assert torch.equal(again.scores, found.scores)
    assert torch.equal(again.control, found.control)


def test_sites_of_several_streams_are_named(read, found):
    mixed = replace(found, sites=(*found.sites[:3], *(Site(i, "resid_mid") for i in range(3))))
    assert found.layers == tuple(range(6)) and mixed.layers is None
    assert list(mixed.plot().layout.xaxis.ticktext)[0].replace("<br>", " ") == "L0 resid_pre"


def test_the_section_states_the_best_layer_the_control_and_every_layer(found):
    section = found.section({})
    assert section.question == "At which layers can the contrast be read?"
    best = found.best_row
    assert f"**layer {best}**: AUROC {found.auroc.max():.3g} [" in section.answer[0]
    assert "With shuffled labels, AUROC is" in section.answer[0]
    (figure,) = section.blocks
    assert isinstance(figure, Figure) and figure.draw().data
    (part,) = section.parts
    (table,) = part.blocks
    assert isinstance(table, Table) and [row[0] for row in table.rows] == list("543210")
    assert all(len(row) == len(table.head) for row in table.rows)


def test_beside_a_map_the_section_leaves_the_table_to_it(found):
    section = found.section({"map": found})
    assert not section.parts and not section.introduction
    assert "shuffled" not in section.answer[0]
