"""Curation: what makes text fit for training, one stage a file, as functions of text alone."""
