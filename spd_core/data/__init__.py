"""Data sets: every sample is an image, its depth in metres and its camera."""
