"""What the options of several commands share: axes, settings, old spellings, completion."""
