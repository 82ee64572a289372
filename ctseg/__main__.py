"""`python -m ctseg`, for torchrun and for where no script is on the path."""

from __future__ import annotations

from ctseg.cli.app import main

main()
