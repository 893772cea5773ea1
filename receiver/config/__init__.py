"""Read the config file and the environment into models; report problems with file, line and key."""
