"""What the tests of all plugins share with those of the package."""

from tests.global_state import unchanged_state

__all__ = ["unchanged_state"]
