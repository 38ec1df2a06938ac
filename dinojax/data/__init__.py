"""From a file to batches of ids."""
