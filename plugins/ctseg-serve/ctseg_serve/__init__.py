"""A ctseg model as an HTTP service."""
