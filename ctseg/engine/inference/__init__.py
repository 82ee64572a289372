"""Tiled prediction of a volume: tiling, networks, blending, and resampling to the scan's own grid."""
