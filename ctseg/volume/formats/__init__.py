"""One file for each volume format: how it is opened and, where it can be, written."""
