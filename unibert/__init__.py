"""unibert: train compact encoders whose representations are universal across languages."""

__version__ = "0.1.0"
