"""A run that was cut off goes on: what is written after a step, and how the calls are brought back to it."""
