"""The HTTP server: which part answers which path, health, metrics, and the server itself."""
