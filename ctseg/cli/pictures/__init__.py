"""Commands that draw scans and label maps."""
