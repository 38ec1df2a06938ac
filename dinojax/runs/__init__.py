"""A training run: what determines it, its folder, and its course from start to end."""
