"""Reading a model: what an answer is, the pass that is explained, and what it leaves behind."""
