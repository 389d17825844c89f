"""For tests, yours and ours: contracts for methods and interventions, and small models.

`check_method` and `check_intervention` say whether a stranger's code keeps what the rest of the
project relies on. The tiny models are made in memory, through the real loading path.
"""

from steerlens.testing.intervention_contract import TEXTS as TEXTS
from steerlens.testing.intervention_contract import check_intervention as check_intervention
from steerlens.testing.method_contract import check_method as check_method
from steerlens.testing.tiny_models import FAMILIES as FAMILIES
from steerlens.testing.tiny_models import WORDS as WORDS
from steerlens.testing.tiny_models import Family as Family
from steerlens.testing.tiny_models import tiny_bridge as tiny_bridge
from steerlens.testing.tiny_models import tiny_hf as tiny_hf
from steerlens.testing.tiny_models import tiny_model as tiny_model
