"""Networks and a loss of MONAI for ctseg."""
