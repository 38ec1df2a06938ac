"""From a loss to many training steps."""
