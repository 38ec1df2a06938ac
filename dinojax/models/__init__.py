"""Recurrent cells, layers and character models."""
