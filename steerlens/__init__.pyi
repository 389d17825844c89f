"""Types of the public names, for editors and type checkers. In step with `__init__.py`."""

# Model: what is read and steered, and where
from steerlens.models.model import Model as Model
from steerlens.sites import Site as Site
from steerlens.sites import Positions as Positions

# Data: pairs of texts, or of answers to a question
from steerlens.data import ContrastPair as ContrastPair
from steerlens.data import ContrastSet as ContrastSet

# Activations and directions: what a model computes for the pairs
from steerlens.measures.reading import activations as activations
from steerlens.directions import Activations as Activations
from steerlens.measures.activation_store import ActivationStore as ActivationStore
from steerlens.measures.reading import fit_directions as fit_directions
from steerlens.directions import Direction as Direction

# Methods: activations of pairs in, a direction out
from steerlens.directions.methods import DiffMean as DiffMean
from steerlens.directions.methods import PCA as PCA
from steerlens.directions.methods import Logistic as Logistic
from steerlens.directions.methods import LDA as LDA
from steerlens.directions.methods import Random as Random

# Interventions: what changes a model, with a strength
from steerlens.interventions import Add as Add
from steerlens.interventions import Ablate as Ablate
from steerlens.interventions import Clamp as Clamp
from steerlens.interventions import ClampRange as ClampRange
from steerlens.interventions import TurnTowards as TurnTowards
from steerlens.interventions import Rotate as Rotate
from steerlens.interventions import angular_steering as angular_steering
from steerlens.interventions import ScaleMask as ScaleMask
from steerlens.interventions import When as When
from steerlens.interventions import Condition as Condition
from steerlens.interventions import Knob as Knob
from steerlens.interventions import Nudge as Nudge
from steerlens.interventions import answer_loss as answer_loss
from steerlens.interventions import AnswerLoss as AnswerLoss
from steerlens.interventions import ProbeLoss as ProbeLoss
from steerlens.interventions import DistributionLoss as DistributionLoss
from steerlens.interventions import AddKeepingNorm as AddKeepingNorm
from steerlens.interventions import Together as Together
from steerlens.interventions import AblateEverywhere as AblateEverywhere
from steerlens.interventions import Prompt as Prompt
from steerlens.interventions import weight_delta as weight_delta
from steerlens.interventions import load_peft as load_peft
from steerlens.interventions import save_peft as save_peft
from steerlens.interventions import baked as baked
from steerlens.interventions import merged as merged
from steerlens.interventions import audit as audit
from steerlens.interventions import fwd_hooks as fwd_hooks

# Operators: interventions that are found on data
from steerlens.operators import sadi as sadi
from steerlens.operators import cache_steering as cache_steering
from steerlens.operators import find_condition as find_condition
from steerlens.operators import triggers as triggers

# Forms: what is trained
from steerlens.forms import Form as Form
from steerlens.forms import VectorForm as VectorForm
from steerlens.forms import LoReFT as LoReFT
from steerlens.forms import DReFT as DReFT
from steerlens.forms import ReFTr1 as ReFTr1
from steerlens.forms import LowRankAdapter as LowRankAdapter
from steerlens.forms import PostBlock as PostBlock
from steerlens.forms import LoRA as LoRA
from steerlens.forms import LocalWeight as LocalWeight
from steerlens.forms import FullWeights as FullWeights
from steerlens.forms import Joint as Joint
from steerlens.forms import SoftPrefix as SoftPrefix

# Training: what is minimised, and the trainer that minimises it for any form
from steerlens.training import Trainer as Trainer
from steerlens.training import TrainedIntervention as TrainedIntervention
from steerlens.training import LM as LM
from steerlens.training import Split as Split
from steerlens.training import BiPO as BiPO
from steerlens.training import RePS as RePS
from steerlens.training import DPO as DPO
from steerlens.training import SimPO as SimPO
from steerlens.training import MatchDistribution as MatchDistribution
from steerlens.training import WeightedPairs as WeightedPairs
from steerlens.training import concept_das as concept_das
from steerlens.training import preference_vector as preference_vector
from steerlens.training import combined as combined

# Measures: what a model does under an intervention
from steerlens.measures.generation import generate as generate
from steerlens.measures.dose_response import dose_response as dose_response
from steerlens.measures.sweep import sweep as sweep
from steerlens.measures.divergence import divergence as divergence
from steerlens.measures.switch_off import switched_off as switched_off
from steerlens.measures.written_on import written_on as written_on
from steerlens.measures.direct_gain import direct_gain as direct_gain
from steerlens.measures.screen import screen as screen
from steerlens.measures.token_attribution import token_attribution as token_attribution
from steerlens.measures.grains import grains as grains
from steerlens.measures.equal_cost import equal_kl as equal_kl
from steerlens.measures.ordinary_texts import ordinary_texts as ordinary_texts

# Analyses: a question in, a result out
from steerlens.analyses.probe.measure_probe import probe as probe
from steerlens.analyses.steerability.measure_steerability import steerability as steerability
from steerlens.analyses.writing.measure_writing import writing as writing
from steerlens.analyses.confirmation.measure_written import confirm_in_writing as confirm_in_writing
from steerlens.analyses.confirmation.contexts import Contexts as Contexts
from steerlens.analyses.confirmation.readers import LikelihoodReader as LikelihoodReader
from steerlens.analyses.confirmation.readers import WordReader as WordReader
from steerlens.analyses.survival.measure_survival import survival as survival
from steerlens.analyses.survival.breaking import Limits as Limits
from steerlens.analyses.validity.measure_validity import decay as decay
from steerlens.analyses.validity.validity_fit import fit_validity as fit_validity
from steerlens.analyses.generalisation.measure_shift import shifted as shifted
from steerlens.analyses.side_effects.measure_spillover import spillover as spillover
from steerlens.analyses.safety.measure_refusal import refusal_effect as refusal_effect
from steerlens.analyses.safety.refusal_reader import RefusalReader as RefusalReader
from steerlens.analyses.safety.refusal_reader import ReaderCheck as ReaderCheck
from steerlens.analyses.nearness.measure_nearness import target_share as target_share
from steerlens.analyses.manifold.measure_distance import stream_distance as stream_distance
from steerlens.analyses.comparison.compare_ways import compare_ways as compare_ways
from steerlens.analyses.comparison.score_tasks import score_tasks as score_tasks
from steerlens.analyses.comparison.data_efficiency import data_efficiency as data_efficiency
from steerlens.analyses.writing.rewriting import rewritten as rewritten
from steerlens.analyses.equivalence.first_order import shift_equivalence as shift_equivalence
from steerlens.analyses.patching.measure_patching import patching as patching
from steerlens.analyses.patching.measure_patching import trace_steering as trace_steering
from steerlens.analyses.patching.prompt_pair import PromptPair as PromptPair
from steerlens.analyses.ab.measure_ab import ab_test as ab_test
from steerlens.analyses.preferences.trading import preference_tradeoff as preference_tradeoff
from steerlens.analyses.stacking.measure_stacking import stacking as stacking
from steerlens.analyses.stacking.measure_stacking import within_budget as within_budget
from steerlens.analyses.geometry.direction_cosines import cosines as cosines
from steerlens.analyses.geometry.token_projections import projections as projections
from steerlens.analyses.scoring.measure_scores import scored as scored

# Results
from steerlens.results import Result as Result
from steerlens.analyses.probe.probe_map import ProbeMap as ProbeMap
from steerlens.analyses.attribution.attribute_gain import attribute_gain as attribute_gain
from steerlens.analyses.attribution.gain_attribution import GainAttribution as GainAttribution
from steerlens.analyses.prediction.predict_layers import predict_layers as predict_layers
from steerlens.analyses.prediction.find_cell import find_cell as find_cell
from steerlens.analyses.strength_laws.measure_laws import compare_laws as compare_laws
from steerlens.analyses.strength_laws.measure_laws import law_strengths as law_strengths
from steerlens.analyses.prediction.layer_predictions import LayerPredictions as LayerPredictions
from steerlens.analyses.strength_laws.law_comparison import LawComparison as LawComparison
from steerlens.analyses.steerability.steerability_map import SteerabilityMap as SteerabilityMap
from steerlens.analyses.writing.writing_map import WritingMap as WritingMap
from steerlens.analyses.confirmation.written_effect import WrittenEffect as WrittenEffect
from steerlens.analyses.survival.text_survival import TextSurvival as TextSurvival
from steerlens.analyses.validity.validity_fit import ValidityFit as ValidityFit
from steerlens.analyses.generalisation.shifted_map import ShiftedMap as ShiftedMap
from steerlens.analyses.side_effects.spillover_map import SpilloverMap as SpilloverMap
from steerlens.analyses.safety.refusal_effect import RefusalEffect as RefusalEffect
from steerlens.analyses.nearness.target_share import TargetShare as TargetShare
from steerlens.analyses.manifold.stream_distance import StreamDistance as StreamDistance
from steerlens.analyses.comparison.way_comparison import WayComparison as WayComparison
from steerlens.analyses.comparison.task_scores import TaskScores as TaskScores
from steerlens.analyses.equivalence.shift_equivalence import ShiftEquivalence as ShiftEquivalence
from steerlens.analyses.patching.patching_map import PatchingMap as PatchingMap
from steerlens.analyses.ab.ab_result import ABTest as ABTest
from steerlens.analyses.stacking.stack_map import StackMap as StackMap
from steerlens.analyses.preferences.tradeoff_curve import TradeoffCurve as TradeoffCurve
from steerlens.analyses.geometry.direction_cosines import Cosines as Cosines
from steerlens.analyses.geometry.token_projections import TokenProjections as TokenProjections
from steerlens.analyses.scoring.scored_map import ScoredMap as ScoredMap

# Sparse autoencoders
from steerlens.saes import SAE as SAE
from steerlens.saes import AddFeature as AddFeature
from steerlens.saes import ClampFeature as ClampFeature
from steerlens.saes import AblateFeature as AblateFeature
from steerlens.saes import EditFeatures as EditFeatures
from steerlens.saes import FeatureAdapter as FeatureAdapter
from steerlens.saes import train_saes as train_saes
from steerlens.analyses.features.find_features import find_features as find_features
from steerlens.analyses.features.feature_card import feature_card as feature_card
from steerlens.analyses.features.map_features import feature_map as feature_map
from steerlens.analyses.features.feature_effects import fit_effects as fit_effects
from steerlens.analyses.features.compare_features import compare_features as compare_features

# Experiments: a whole question as a value, with a folder and a page
from steerlens.experiment import Experiment as Experiment
from steerlens.experiment import ProbingExperiment as ProbingExperiment
from steerlens.experiment import SteerabilityExperiment as SteerabilityExperiment
from steerlens.experiment import SAEExperiment as SAEExperiment
from steerlens.experiment import ComparisonExperiment as ComparisonExperiment
from steerlens.experiment import Run as Run
from steerlens.experiment import track_run as track_run

# Sharing: a vector with its card, as a folder and on the hub
from steerlens.sharing import save_shared as save_shared
from steerlens.sharing import load_shared as load_shared
from steerlens.sharing import push_to_hub as push_to_hub
from steerlens.sharing import from_hub as from_hub
from steerlens.sharing import vector_card as vector_card

# Grids: many experiments at once
from steerlens.grid import run_grid as run_grid
from steerlens.grid import GridRuns as GridRuns
