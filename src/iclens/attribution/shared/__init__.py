"""What several methods of attribution share."""
