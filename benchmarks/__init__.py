"""Benchmarks of sup: see README.md."""
