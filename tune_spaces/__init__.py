"""What one sweeps: one SPACE a file, data only."""
