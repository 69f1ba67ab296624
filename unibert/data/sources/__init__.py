"""One file per source of real text; each defines one `SOURCE` (see base.py)."""
