"""Tables and pages that show what was computed elsewhere."""
