"""A few-shot prompt: its text, its parts, its tokens, and the files it comes from."""
