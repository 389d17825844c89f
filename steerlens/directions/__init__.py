"""Vectors that were read (`Activations`), and directions with all facts about them (`Direction`)."""

from steerlens.directions.activations import Activations as Activations
from steerlens.directions.direction_errors import DirectionError as DirectionError
from steerlens.directions.direction_facts import LAYERS as LAYERS
from steerlens.directions.direction_facts import Operation as Operation
from steerlens.directions.vector import FORMAT as FORMAT
from steerlens.directions.vector import Adopter as Adopter
from steerlens.directions.vector import Direction as Direction
from steerlens.directions.vector import require_vector as require_vector
