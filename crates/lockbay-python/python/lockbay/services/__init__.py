"""The services of the integration guide, by its names."""
