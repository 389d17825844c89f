"""Models on disk and from elsewhere, with unprocessed weights, compared with their originals.

Four doors: our own folders (`save_hooked`, `load_hooked`), Hugging Face directories and models
(`load_hf_model`, `hooked_from_hf`, `bridge_from_hf`), GGUF files (`load_gguf`), and names on the
hub (`load_hub`). Nothing here unpickles or runs code of a checkpoint, nothing disturbs the global
random state, and a local path never touches the network.

With `steerlens.models.model` this package is the only one that imports TransformerLens.
"""

from steerlens.models.checkpoints.building import build_hooked as build_hooked
from steerlens.models.checkpoints.config import checkpoint_kind as checkpoint_kind
from steerlens.models.checkpoints.converting import bridge_from_hf as bridge_from_hf
from steerlens.models.checkpoints.converting import hooked_from_hf as hooked_from_hf
from steerlens.models.checkpoints.converting import logit_difference as logit_difference
from steerlens.models.checkpoints.converting import model_from_hf as model_from_hf
from steerlens.models.checkpoints.errors import CheckpointError as CheckpointError
from steerlens.models.checkpoints.errors import MissingCheckpoint as MissingCheckpoint
from steerlens.models.checkpoints.errors import UnreachableHub as UnreachableHub
from steerlens.models.checkpoints.facts import fingerprint as fingerprint
from steerlens.models.checkpoints.facts import weights_processing as weights_processing
from steerlens.models.checkpoints.families import KNOWN_ARCHITECTURES as KNOWN_ARCHITECTURES
from steerlens.models.checkpoints.folders import load_hooked as load_hooked
from steerlens.models.checkpoints.folders import save_hooked as save_hooked
from steerlens.models.checkpoints.gguf_checkpoints import PACKAGED as PACKAGED
from steerlens.models.checkpoints.gguf_checkpoints import is_gguf as is_gguf
from steerlens.models.checkpoints.gguf_checkpoints import load_gguf as load_gguf
from steerlens.models.checkpoints.gguf_checkpoints import packaged_gguf as packaged_gguf
from steerlens.models.checkpoints.hook_check import HookCheck as HookCheck
from steerlens.models.checkpoints.hook_check import ShortRun as ShortRun
from steerlens.models.checkpoints.hook_check import check_hooks as check_hooks
from steerlens.models.checkpoints.hook_check import measure_hooks as measure_hooks
from steerlens.models.checkpoints.hook_check import short_run as short_run
from steerlens.models.checkpoints.hub import load_hub as load_hub
from steerlens.models.checkpoints.huggingface import load_hf_directory as load_hf_directory
from steerlens.models.checkpoints.huggingface import load_hf_model as load_hf_model
from steerlens.models.checkpoints.quiet import unchanged_rng as unchanged_rng
from steerlens.models.checkpoints.text_conventions import end_ids as end_ids
from steerlens.models.checkpoints.text_conventions import leading_ids as leading_ids
from steerlens.models.checkpoints.text_conventions import special_ids as special_ids
from steerlens.models.checkpoints.tokenizers import keep_tokenizer as keep_tokenizer
from steerlens.models.checkpoints.tokenizers import word_tokenizer as word_tokenizer
