"""The context's effect on every block as a rank-1 update of its MLP, split by demonstration, and really applied."""
