"""Planning of a training run: the fingerprint of the data, and the choices that follow from it."""
