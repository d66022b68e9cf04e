"""What a trained student is for: predicting on any video."""
