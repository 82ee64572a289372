"""Networks of other projects: their settings as options of ctseg's networks, their weights under ctseg's names."""
