"""Helpers for the options of several commands: axes, settings, old spellings, completion."""
