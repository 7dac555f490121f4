"""Studies that end in a table and in verdicts with numbers."""
