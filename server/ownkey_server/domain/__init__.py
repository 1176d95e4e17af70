"""Plain immutable values and pure rules. Nothing here does I/O, reads a clock or imports another room."""
