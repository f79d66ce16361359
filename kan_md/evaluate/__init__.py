"""Errors of a trained model on labelled structures."""
