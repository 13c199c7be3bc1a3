"""A Policy made into rules that the kernel takes: data in, data out, no I/O."""
