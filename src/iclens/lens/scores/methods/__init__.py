"""Ways to score the demonstrations of a prompt: one method a file, found by its decorator."""
