"""steerlens: where and how strongly can a language model be steered, at what cost, is it real?

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    # models and where to look
    "Model": "models.model",
    "Site": "sites",
    "Positions": "sites",
    # data
    "ContrastPair": "data",
    "ContrastSet": "data",
    # reading
    "activations": "measures.reading",
    "directions": "measures.reading",
    "Activations": "directions",
    "ActivationStore": "measures.activation_store",
    "Direction": "directions",
    "probe": "analyses.probe.measure_probe",
    # methods
    "DiffMean": "directions.methods",
    "PCA": "directions.methods",
    "Logistic": "directions.methods",
    "LDA": "directions.methods",
    "Random": "directions.methods",
    # steering
    "Add": "interventions",
    "Ablate": "interventions",
    "Clamp": "interventions",
    "Together": "interventions",
    "generate": "measures.generation",
    "dose_response": "measures.generation",
    "writing": "analyses.writing.measure_writing",
    "equal_kl": "measures.equal_cost",
    # measuring
    "sweep": "measures.sweep",
    "divergence": "measures.sweep",
    "screen": "measures.screen",
    "steerability": "analyses.steerability.measure_steerability",
    "decay": "analyses.validity.measure_validity",
    "shifted": "analyses.side_effects.measure_elsewhere",
    "spillover": "analyses.side_effects.measure_elsewhere",
    "SteerabilityMap": "analyses.steerability.steerability_map",
    "ProbeMap": "analyses.probe.probe_map",
    "WritingMap": "analyses.writing.writing_map",
    "ShiftedMap": "analyses.generalisation.shifted_map",
    "SpilloverMap": "analyses.side_effects.spillover_map",
    "ValidityFit": "analyses.validity",
    "fit_validity": "analyses.validity",
    # sparse autoencoders
    "Dictionary": "saes",
    "AddFeature": "saes",
    "ClampFeature": "saes",
    "AblateFeature": "saes",
    "EditFeatures": "saes",
    "train_dictionaries": "saes",
    "find_features": "analyses.features.find_features",
    "feature_card": "analyses.features.feature_card",
    "feature_map": "analyses.features.measure_features",
    "feature_spill": "analyses.features.feature_texts",
    "fit_effects": "analyses.features.feature_effects",
    "compare_features": "analyses.features.compare_features",
    # experiments
    "ProbingExperiment": "experiment",
    "SteerabilityExperiment": "experiment",
    "SAEExperiment": "experiment",
    "Run": "experiment",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"steerlens has no {name!r}. It has: {', '.join(_HOME)}.")
    return getattr(import_module(f"steerlens.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
