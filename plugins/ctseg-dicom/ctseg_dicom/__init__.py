"""DICOM SEG and RTSTRUCT for ctseg."""
