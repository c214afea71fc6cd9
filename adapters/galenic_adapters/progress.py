"""Names the type of functions that show a line of progress to the user."""

from collections.abc import Callable

Say = Callable[[str], None]
