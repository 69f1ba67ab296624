"""Scorers: what predictions are worth, equal to the official ones, as rows that examples leave."""
