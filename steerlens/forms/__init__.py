"""What can be trained, one kind in a file.

A form has parameters and makes an intervention of them; any objective trains any form.
"""

from steerlens.forms.dreft import DReFT as DReFT
from steerlens.forms.form import Form as Form
from steerlens.forms.full_weights import FullWeights as FullWeights
from steerlens.forms.joint import Joint as Joint
from steerlens.forms.local_weight import LocalWeight as LocalWeight
from steerlens.forms.lora import LoRA as LoRA
from steerlens.forms.loreft import LoReFT as LoReFT
from steerlens.forms.low_rank_adapter import LowRankAdapter as LowRankAdapter
from steerlens.forms.post_block import PostBlock as PostBlock
from steerlens.forms.reft_r1 import ReFTr1 as ReFTr1
from steerlens.forms.soft_prefix import SoftPrefix as SoftPrefix
from steerlens.forms.vector_form import VectorForm as VectorForm
