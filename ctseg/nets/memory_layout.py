"""Channels-last memory layouts, in which the channels of a voxel are neighbours."""

from __future__ import annotations

import torch

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The layout for each number of axes of a tensor."""
