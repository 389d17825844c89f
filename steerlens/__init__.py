"""steerlens: where and how strongly can a language model be steered, at what cost, is it real?

Names are loaded on first use, so that importing the package costs nothing. `__init__.pyi` says the
same to editors and type checkers.
"""

from importlib import import_module
from typing import Any

_HOME = {
    # Model: what is read and steered, and where
    "Model": "models.model",
    "Site": "sites",
    "Positions": "sites",
    # Data: pairs of texts, or of answers to a question
    "ContrastPair": "data",
    "ContrastSet": "data",
    # Activations and directions: what a model computes for the pairs
    "activations": "measures.reading",
    "Activations": "directions",
    "ActivationStore": "measures.activation_store",
    "fit_directions": "measures.reading",
    "Direction": "directions",
    # Methods: activations of pairs in, a direction out
    "DiffMean": "directions.methods",
    "PCA": "directions.methods",
    "Logistic": "directions.methods",
    "LDA": "directions.methods",
    "Random": "directions.methods",
    # Interventions: what changes a model, with a strength
    "Add": "interventions",
    "Ablate": "interventions",
    "Clamp": "interventions",
    "ClampRange": "interventions",
    "TurnTowards": "interventions",
    "Rotate": "interventions",
    "angular_steering": "interventions",
    "ScaleMask": "interventions",
    "When": "interventions",
    "Condition": "interventions",
    "Knob": "interventions",
    "Nudge": "interventions",
    "answer_loss": "interventions",
    "AnswerLoss": "interventions",
    "ProbeLoss": "interventions",
    "DistributionLoss": "interventions",
    "AddKeepingNorm": "interventions",
    "Together": "interventions",
    "AblateEverywhere": "interventions",
    "Prompt": "interventions",
    "weight_delta": "interventions",
    "load_peft": "interventions",
    "save_peft": "interventions",
    "baked": "interventions",
    "merged": "interventions",
    "audit": "interventions",
    "fwd_hooks": "interventions",
    # Operators: interventions that are found on data
    "sadi": "operators",
    "cache_steering": "operators",
    "find_condition": "operators",
    "triggers": "operators",
    # Forms: what is trained
    "Form": "forms",
    "VectorForm": "forms",
    "LoReFT": "forms",
    "DReFT": "forms",
    "ReFTr1": "forms",
    "LowRankAdapter": "forms",
    "PostBlock": "forms",
    "LoRA": "forms",
    "LocalWeight": "forms",
    "FullWeights": "forms",
    "Joint": "forms",
    "SoftPrefix": "forms",
    # Training: what is minimised, and the trainer that minimises it for any form
    "Trainer": "training",
    "TrainedIntervention": "training",
    "LM": "training",
    "Split": "training",
    "BiPO": "training",
    "RePS": "training",
    "DPO": "training",
    "SimPO": "training",
    "MatchDistribution": "training",
    "WeightedPairs": "training",
    "concept_das": "training",
    "preference_vector": "training",
    "combined": "training",
    # Measures: what a model does under an intervention
    "generate": "measures.generation",
    "dose_response": "measures.dose_response",
    "sweep": "measures.sweep",
    "divergence": "measures.divergence",
    "switched_off": "measures.switch_off",
    "direct_gain": "measures.direct_gain",
    "screen": "measures.screen",
    "token_attribution": "measures.token_attribution",
    "grains": "measures.grains",
    "equal_kl": "measures.equal_cost",
    "ordinary_texts": "measures.ordinary_texts",
    # Analyses: a question in, a result out
    "probe": "analyses.probe.measure_probe",
    "steerability": "analyses.steerability.measure_steerability",
    "writing": "analyses.writing.measure_writing",
    "confirm_in_writing": "analyses.confirmation.measure_written",
    "Contexts": "analyses.confirmation.contexts",
    "LikelihoodReader": "analyses.confirmation.readers",
    "WordReader": "analyses.confirmation.readers",
    "decay": "analyses.validity.measure_validity",
    "fit_validity": "analyses.validity.validity_fit",
    "shifted": "analyses.generalisation.measure_shift",
    "spillover": "analyses.side_effects.measure_spillover",
    "target_share": "analyses.nearness.measure_nearness",
    "compare_ways": "analyses.comparison.compare_ways",
    "score_tasks": "analyses.comparison.score_tasks",
    "data_efficiency": "analyses.comparison.data_efficiency",
    "rewritten": "analyses.writing.rewriting",
    "shift_equivalence": "analyses.equivalence.first_order",
    "patching": "analyses.patching.measure_patching",
    "trace_steering": "analyses.patching.measure_patching",
    "PromptPair": "analyses.patching.prompt_pair",
    "ab_test": "analyses.ab.measure_ab",
    "preference_tradeoff": "analyses.preferences.trading",
    "stacking": "analyses.stacking.measure_stacking",
    "within_budget": "analyses.stacking.measure_stacking",
    "cosines": "analyses.geometry.direction_cosines",
    "projections": "analyses.geometry.token_projections",
    "scored": "analyses.scoring.measure_scores",
    # Results
    "Result": "results",
    "ProbeMap": "analyses.probe.probe_map",
    "attribute_gain": "analyses.attribution.attribute_gain",
    "GainAttribution": "analyses.attribution.gain_attribution",
    "predict_layers": "analyses.prediction.predict_layers",
    "find_cell": "analyses.prediction.find_cell",
    "LayerPredictions": "analyses.prediction.layer_predictions",
    "SteerabilityMap": "analyses.steerability.steerability_map",
    "WritingMap": "analyses.writing.writing_map",
    "WrittenEffect": "analyses.confirmation.written_effect",
    "ValidityFit": "analyses.validity.validity_fit",
    "ShiftedMap": "analyses.generalisation.shifted_map",
    "SpilloverMap": "analyses.side_effects.spillover_map",
    "TargetShare": "analyses.nearness.target_share",
    "WayComparison": "analyses.comparison.way_comparison",
    "TaskScores": "analyses.comparison.task_scores",
    "ShiftEquivalence": "analyses.equivalence.shift_equivalence",
    "PatchingMap": "analyses.patching.patching_map",
    "ABTest": "analyses.ab.ab_result",
    "StackMap": "analyses.stacking.stack_map",
    "TradeoffCurve": "analyses.preferences.tradeoff_curve",
    "Cosines": "analyses.geometry.direction_cosines",
    "TokenProjections": "analyses.geometry.token_projections",
    "ScoredMap": "analyses.scoring.scored_map",
    # Sparse autoencoders
    "SAE": "saes",
    "AddFeature": "saes",
    "ClampFeature": "saes",
    "AblateFeature": "saes",
    "EditFeatures": "saes",
    "FeatureAdapter": "saes",
    "train_saes": "saes",
    "find_features": "analyses.features.find_features",
    "feature_card": "analyses.features.feature_card",
    "feature_map": "analyses.features.map_features",
    "fit_effects": "analyses.features.feature_effects",
    "compare_features": "analyses.features.compare_features",
    # Experiments: a whole question as a value, with a folder and a page
    "Experiment": "experiment",
    "ProbingExperiment": "experiment",
    "SteerabilityExperiment": "experiment",
    "SAEExperiment": "experiment",
    "ComparisonExperiment": "experiment",
    "Run": "experiment",
    "track_run": "experiment",
    # Sharing: a vector with its card, as a folder and on the hub
    "save_shared": "sharing",
    "load_shared": "sharing",
    "push_to_hub": "sharing",
    "from_hub": "sharing",
    "vector_card": "sharing",
    # Grids: many experiments at once
    "run_grid": "grid",
    "GridRuns": "grid",
}
"""The module that defines each public name."""

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"steerlens has no {name!r}. It has: {', '.join(_HOME)}.")
    return getattr(import_module(f"steerlens.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
