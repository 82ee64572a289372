"""What to train, on what, for how long: fingerprint, plan, and the run that follows from them."""
