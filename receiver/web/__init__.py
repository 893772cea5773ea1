"""The HTTP server: the application and its routes, health, metrics, and the server itself."""
