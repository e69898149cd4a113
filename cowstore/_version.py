"""The version, as a constant: reading it must not cost an import of package metadata."""

__version__ = "0.1.0.dev0"
