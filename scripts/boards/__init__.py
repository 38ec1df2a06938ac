"""What `board.py` is made of: recipes, the runs that follow from them, and tables."""
