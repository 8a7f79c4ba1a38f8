"""Other supervisors beside ours: one module each, what they are measured by, and the page."""
