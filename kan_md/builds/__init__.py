"""What was compiled for this environment: where it is kept, what it is made of, how it is found."""
