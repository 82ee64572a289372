"""A network with its card on a device."""
