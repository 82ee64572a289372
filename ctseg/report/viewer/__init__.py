"""A page that shows a scan and label maps in a browser."""
