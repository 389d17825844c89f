"""One trainer for every form and objective, from cached states."""

from steerlens.training.concept_das import ConceptSubspace as ConceptSubspace
from steerlens.training.concept_das import concept_das as concept_das
from steerlens.training.learning_rates import RateSearch as RateSearch
from steerlens.training.learning_rates import find_rate as find_rate
from steerlens.training.objectives import DPO as DPO
from steerlens.training.objectives import LM as LM
from steerlens.training.objectives import BiPO as BiPO
from steerlens.training.objectives import MatchDistribution as MatchDistribution
from steerlens.training.objectives import Objective as Objective
from steerlens.training.objectives import RePS as RePS
from steerlens.training.objectives import SimPO as SimPO
from steerlens.training.objectives import Split as Split
from steerlens.training.objectives import TargetDistribution as TargetDistribution
from steerlens.training.objectives import WeightedPairs as WeightedPairs
from steerlens.training.preference_vector import combined as combined
from steerlens.training.preference_vector import overlap as overlap
from steerlens.training.preference_vector import preference_vector as preference_vector
from steerlens.training.trained_intervention import TrainedEdit as TrainedEdit
from steerlens.training.trained_intervention import TrainedIntervention as TrainedIntervention
from steerlens.training.trainer import Trainer as Trainer
from steerlens.training.training_errors import DivergedError as DivergedError
from steerlens.training.training_errors import TrainingError as TrainingError
from steerlens.training.training_errors import TrainingWarning as TrainingWarning
from steerlens.training.training_history import TrainingHistory as TrainingHistory
