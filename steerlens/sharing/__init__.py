"""Sharing directions and trained interventions: a folder with a card, and the Hugging Face hub.

    folder = save_shared(direction, "weddings-vector", license="mit", effect=run)
    push_to_hub(direction, "me/weddings-vector", license="mit", effect=run)
    direction = from_hub("me/weddings-vector", model)

The folder holds safetensors and JSON alone, the SHA-256 of each file, and a README.md with metadata
that the hub reads. Every file is compared with its digest when it is read.
"""

from steerlens.sharing.shared_folder import SharingError as SharingError
from steerlens.sharing.shared_folder import load_shared as load_shared
from steerlens.sharing.shared_folder import save_shared as save_shared
from steerlens.sharing.sharing_hub import from_hub as from_hub
from steerlens.sharing.sharing_hub import push_to_hub as push_to_hub
from steerlens.sharing.vector_card import vector_card as vector_card
