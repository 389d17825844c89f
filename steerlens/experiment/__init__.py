"""Experiments as values: every input that changes the numbers, frozen, hashed, and resumable.

An experiment is one file: its fields, what its runs hold, and how that is measured. `run()` puts
everything into one folder: the manifest first, then activations and units of work as they are
finished, results, a report page, and last the marker of a finished run. A killed run goes on where
it was.
"""

from steerlens.experiment.comparison_experiment import (
    ComparisonExperiment as ComparisonExperiment,
)
from steerlens.experiment.experiment import Experiment as Experiment
from steerlens.experiment.experiment_data import ExperimentError as ExperimentError
from steerlens.experiment.experiment_data import load_data as load_data
from steerlens.experiment.experiment_file import load_experiment as load_experiment
from steerlens.experiment.fields import method_named as method_named
from steerlens.experiment.manifest import read_manifest as read_manifest
from steerlens.experiment.manifest import versions as versions
from steerlens.experiment.probing_experiment import ProbingExperiment as ProbingExperiment
from steerlens.experiment.run import Run as Run
from steerlens.experiment.sae_experiment import SAEExperiment as SAEExperiment
from steerlens.experiment.side_by_side import SideBySide as SideBySide
from steerlens.experiment.side_by_side import compare_runs as compare_runs
from steerlens.experiment.steerability_experiment import (
    SteerabilityExperiment as SteerabilityExperiment,
)
from steerlens.experiment.tracking import TrackingError as TrackingError
from steerlens.experiment.tracking import track_run as track_run
from steerlens.experiment.workplace import Inputs as Inputs
from steerlens.experiment.workplace import Workplace as Workplace
