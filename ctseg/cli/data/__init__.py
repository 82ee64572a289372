"""`ctseg data`: commands for data sets and scans."""
