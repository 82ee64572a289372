"""Networks of other projects as ours: their settings as options, their weights under our names."""
