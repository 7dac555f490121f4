"""Language models seen as sequences of dual models."""
