"""Street-level photos: reading files, positions, tables, panoramas, and the tensors that a model takes."""
