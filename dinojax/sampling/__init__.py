"""New names and texts from a trained model."""
