"""The agent: runs beside boards, brings them to what control assigns, and measures on them."""
