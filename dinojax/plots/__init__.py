"""Pictures of runs, with matplotlib."""
