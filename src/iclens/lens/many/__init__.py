"""Many prompts explained side by side, with the numbers of one at a time."""
