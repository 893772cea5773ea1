"""The config file and the environment, read into models; problems are reported with file, line and key."""
