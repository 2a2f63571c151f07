"""Backends for CUDA devices."""
