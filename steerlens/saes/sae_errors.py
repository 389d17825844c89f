"""Why an SAE cannot be used."""


class SAEError(ValueError):
    """An SAE that cannot be loaded, cannot steer, or does not fit the model."""
