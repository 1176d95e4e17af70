"""What is done at a token: each operation is a value that knows how to run at a bench."""
