"""What steering does to the refusals of a model."""
