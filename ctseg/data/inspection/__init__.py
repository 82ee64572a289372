"""What an inspection of a data set finds, and the checks behind it."""
