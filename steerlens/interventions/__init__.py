"""Changes of a model with a strength. One file per kind of thing that is changed."""

from steerlens.interventions.residual import Ablate as Ablate
from steerlens.interventions.residual import Add as Add
from steerlens.interventions.residual import Clamp as Clamp
from steerlens.interventions.together import Together as Together
