"""The parts of the bench that run.py puts together."""
