"""Procedural furnished rooms with exact depth, for training, the demo and tests; a robot need not install it."""
