"""The sides that `scripts/bench.py` compares, each a program of its own; start with `work`."""
