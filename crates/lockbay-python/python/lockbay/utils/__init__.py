"""The utilities of the integration guide, by its names."""
