"""Changes of a model with a strength. One file per kind of thing that is changed."""

from steerlens.interventions.ablate_everywhere import AblateEverywhere as AblateEverywhere
from steerlens.interventions.baking import baked as baked
from steerlens.interventions.clamp_range import ClampRange as ClampRange
from steerlens.interventions.lens_hooks import fwd_hooks as fwd_hooks
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
