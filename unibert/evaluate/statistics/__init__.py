"""Significance: how examples make a score, the paired bootstrap over examples, and tests over cells and models."""
