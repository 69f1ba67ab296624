"""`python -m unibert`."""

from unibert.cli import main

if __name__ == "__main__":
    main()
