"""Where LockBay meets other libraries. Each module imports its own library, and only that."""
