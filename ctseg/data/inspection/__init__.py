"""What is in data sets and single scans, and the checks that find what would spoil a training."""
