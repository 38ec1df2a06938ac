"""The sides that `scripts/bench.py` compares, each a process. Read `work` first."""
