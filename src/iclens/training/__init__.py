"""Training of small models on in-context tasks."""
