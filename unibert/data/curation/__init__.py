"""What is done to text before it is used, one step a file."""
