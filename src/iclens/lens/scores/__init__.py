"""Scores of the demonstrations of a prompt, and how well they predict deletions."""
