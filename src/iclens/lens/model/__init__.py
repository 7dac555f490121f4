"""A language model that the lens can read: loading, families, and the modules of each layer."""
