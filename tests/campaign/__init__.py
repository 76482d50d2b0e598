"""The campaign: every harness of the project for a stated time, or up to what CI asks for."""
