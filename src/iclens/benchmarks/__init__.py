"""Performance claims as cases: agreement first, then times in interleaved pairs, memory, and the gap to the floor."""
