"""Many runs: grouped by shape, trained together, kept in a store."""
