"""Formats of micro-CT: voxels without a header, with a description beside them or in options, and Amira meshes."""
