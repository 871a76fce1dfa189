"""The instrument: from multiple-choice questions to the geometry of a language model's layers."""
