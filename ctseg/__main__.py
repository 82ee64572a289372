"""`python -m ctseg`, for torchrun and for environments without the `ctseg` script."""

from __future__ import annotations

from ctseg.cli.app import main

main()
