"""Pictures of runs and predictions, drawn without a display."""
