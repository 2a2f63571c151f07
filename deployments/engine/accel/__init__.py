"""Faster backends for a checkpoint's networks. Nothing in the core or in the models imports this package."""
