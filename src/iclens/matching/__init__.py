"""What did a trained model learn? Its answers beside those of known algorithms."""
