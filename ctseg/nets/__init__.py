"""Networks. Option classes (`ctseg.nets.config`) are free of torch; modules are not."""
