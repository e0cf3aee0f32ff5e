"""Doors to the kernel, one a file: constants and thin wrappers with the man page they come from.

Standard library only. A failed call is an OSError with the kernel's errno.
"""
