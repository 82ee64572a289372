"""How much memory prediction takes, and settings that fit what there is."""
