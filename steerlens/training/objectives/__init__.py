"""Training objectives: what is minimised, one file each, in the published formulas."""

from steerlens.training.objectives.bipo import BiPO as BiPO
from steerlens.training.objectives.dpo import DPO as DPO
from steerlens.training.objectives.lm import LM as LM
from steerlens.training.objectives.match_distribution import MatchDistribution as MatchDistribution
from steerlens.training.objectives.match_distribution import (
    TargetDistribution as TargetDistribution,
)
from steerlens.training.objectives.objective import Objective as Objective
from steerlens.training.objectives.reps import RePS as RePS
from steerlens.training.objectives.simpo import SimPO as SimPO
from steerlens.training.objectives.split import Split as Split
from steerlens.training.objectives.weighted import WeightedPairs as WeightedPairs
