"""From a volume to labels: tiles, networks, blending, the scan's own grid."""
