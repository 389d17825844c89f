"""Models on disk and from elsewhere, as `HookedTransformer`s with unprocessed weights.

Three doors: our own folders (`save_hooked`, `load_hooked`), Hugging Face directories and models
(`load_hf_directory`, `hooked_from_hf`), and names on the hub (`load_hub`). Nothing here unpickles,
nothing disturbs the global random state, and a local path never touches the network.

With `steerlens.models.model` this package is the only one that imports TransformerLens.
"""

from steerlens.models.checkpoints.building import build_hooked as build_hooked
from steerlens.models.checkpoints.config import checkpoint_kind as checkpoint_kind
from steerlens.models.checkpoints.errors import CheckpointError as CheckpointError
from steerlens.models.checkpoints.errors import MissingCheckpoint as MissingCheckpoint
from steerlens.models.checkpoints.errors import UnreachableHub as UnreachableHub
from steerlens.models.checkpoints.facts import HookCheck as HookCheck
from steerlens.models.checkpoints.facts import check_hooks as check_hooks
from steerlens.models.checkpoints.facts import fingerprint as fingerprint
from steerlens.models.checkpoints.facts import measure_hooks as measure_hooks
from steerlens.models.checkpoints.facts import weights_processing as weights_processing
from steerlens.models.checkpoints.families import KNOWN_ARCHITECTURES as KNOWN_ARCHITECTURES
from steerlens.models.checkpoints.folders import load_hooked as load_hooked
from steerlens.models.checkpoints.folders import save_hooked as save_hooked
from steerlens.models.checkpoints.hub import load_hub as load_hub
from steerlens.models.checkpoints.huggingface import bridge_from_hf as bridge_from_hf
from steerlens.models.checkpoints.huggingface import hooked_from_hf as hooked_from_hf
from steerlens.models.checkpoints.huggingface import load_hf_directory as load_hf_directory
from steerlens.models.checkpoints.huggingface import logit_difference as logit_difference
from steerlens.models.checkpoints.quiet import unchanged_rng as unchanged_rng
from steerlens.models.checkpoints.tokenizers import keep_tokenizer as keep_tokenizer
from steerlens.models.checkpoints.tokenizers import word_tokenizer as word_tokenizer
