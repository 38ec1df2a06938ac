"""The folder of a run, and the experiment that fills it."""
