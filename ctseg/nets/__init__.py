"""Networks. Their option classes (`ctseg.nets.config`) import no torch."""
