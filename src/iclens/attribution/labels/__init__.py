"""Scores of demonstrations that are pairs of an input and a label: which labels the others make unlikely."""
