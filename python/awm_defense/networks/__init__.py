"""Other people's networks: wrapped, parametrised, in any precision, with any output."""
