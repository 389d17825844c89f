"""steerlens: where and how strongly can a language model be steered, at what cost, is it real?

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    # models and where to look
    "Model": "model",
    "Site": "sites",
    "Positions": "sites",
    # data
    "ContrastPair": "contrast",
    "ContrastSet": "contrast",
    # reading
    "activations": "capture",
    "directions": "capture",
    "Activations": "direction",
    "ActivationStore": "store",
    "Direction": "direction",
    "probe": "probing",
    # methods
    "DiffMean": "methods",
    "PCA": "methods",
    "Logistic": "methods",
    "LDA": "methods",
    "Random": "methods",
    # steering
    "Add": "interventions",
    "Ablate": "interventions",
    "Clamp": "interventions",
    "Together": "interventions",
    "generate": "generation",
    "dose_response": "generation",
    "writing": "continuing",
    "equal_kl": "calibration",
    # measuring
    "sweep": "sweeping",
    "divergence": "sweeping",
    "screen": "screening",
    "steerability": "mapping",
    "decay": "decaying",
    "shifted": "elsewhere",
    "spillover": "elsewhere",
    "SteerabilityMap": "results",
    "ProbeMap": "results",
    "WritingMap": "results",
    "ShiftedMap": "results",
    "SpilloverMap": "results",
    "ValidityFit": "validity",
    "fit_validity": "validity",
    # sparse autoencoders
    "Dictionary": "saes",
    "AddFeature": "saes",
    "ClampFeature": "saes",
    "AblateFeature": "saes",
    "EditFeatures": "saes",
    "train_dictionaries": "saes",
    "find_features": "saes.finding",
    "feature_card": "saes.feature_card",
    "feature_map": "saes.measuring",
    "feature_spill": "saes.texts",
    "fit_effects": "saes.effects",
    "compare_features": "saes.comparing",
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
