"""What the tests of all plugins share with those of the package."""

from tests.conftest import mini_set
from tests.global_state import unchanged_state

__all__ = ["mini_set", "unchanged_state"]
