"""One small database for every schema version, kept for ever: each must open, verify and go on."""
