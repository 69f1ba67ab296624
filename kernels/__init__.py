"""GPU code and its plain-PyTorch twins. Imports torch (and triton, lazily) only; nothing of unibert."""
