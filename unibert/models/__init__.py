"""The networks: student encoder, its heads, the discriminator, the teacher, and where they are read from."""
