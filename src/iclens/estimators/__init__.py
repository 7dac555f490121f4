"""Answers to the same prompts by known algorithms."""
