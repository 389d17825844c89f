"""Why an SAE cannot be used."""

from steerlens.store.files import DamagedFile


class SAEError(ValueError):
    """An SAE that cannot be loaded, cannot steer, or does not fit the model."""


class DamagedSAE(SAEError, DamagedFile):
    """A folder whose files are not those that were written."""
