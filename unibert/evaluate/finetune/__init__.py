"""Fine-tuning an encoder on a labelled task in one language, and measuring it in all: windows, heads, loop, plan."""
