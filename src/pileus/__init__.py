"""Turn a cloud account into servers you can use, and make them vanish again."""

__version__ = "0.1.0"
