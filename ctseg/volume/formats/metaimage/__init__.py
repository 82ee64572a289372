"""MetaImage files as volumes."""
