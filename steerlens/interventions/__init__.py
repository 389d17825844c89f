"""Changes of a model with a strength. One file per kind of thing that is changed."""

from steerlens.interventions.ablate_everywhere import AblateEverywhere as AblateEverywhere
from steerlens.interventions.baking import baked as baked
from steerlens.interventions.clamp_range import ClampRange as ClampRange
from steerlens.interventions.conditional import Condition as Condition
from steerlens.interventions.conditional import When as When
from steerlens.interventions.knob import Knob as Knob
from steerlens.interventions.lens_hooks import fwd_hooks as fwd_hooks
from steerlens.interventions.nudge import AnswerLoss as AnswerLoss
from steerlens.interventions.nudge import DistributionLoss as DistributionLoss
from steerlens.interventions.nudge import Nudge as Nudge
from steerlens.interventions.nudge import ProbeLoss as ProbeLoss
from steerlens.interventions.nudge import answer_loss as answer_loss
from steerlens.interventions.peft_folder import load_peft as load_peft
from steerlens.interventions.peft_folder import save_peft as save_peft
from steerlens.interventions.prompt import Prompt as Prompt
from steerlens.interventions.residual import Ablate as Ablate
from steerlens.interventions.residual import Add as Add
from steerlens.interventions.residual import Clamp as Clamp
from steerlens.interventions.rotation import Rotate as Rotate
from steerlens.interventions.rotation import TurnTowards as TurnTowards
from steerlens.interventions.rotation import angular_steering as angular_steering
from steerlens.interventions.scale_mask import ScaleMask as ScaleMask
from steerlens.interventions.together import Together as Together
from steerlens.interventions.weight_audit import audit as audit
from steerlens.interventions.weight_delta import merged as merged
from steerlens.interventions.weight_delta import weight_delta as weight_delta
