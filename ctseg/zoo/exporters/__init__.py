"""Published models in the formats of other tools, so that nobody is locked in."""
