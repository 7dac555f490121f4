"""Learners of the made-up language: the bundled one, one of two hops, and how often they are right."""
