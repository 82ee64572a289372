"""Volume formats, one module each: opening and, where supported, writing."""
