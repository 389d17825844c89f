"""Ways of adapting a model side by side, at equal cost: what each gains, breaks, takes and leaves."""
