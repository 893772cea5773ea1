"""The config file and the environment, read into models; what is wrong is told with file, line and key."""
