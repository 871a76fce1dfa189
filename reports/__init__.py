"""The notebook that shows results to a person, its figures, and the published curves."""
