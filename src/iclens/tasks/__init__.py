"""What is to be learnt in context."""
