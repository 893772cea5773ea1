"""The console: pages for people, over the functions of the JSON API. No SQL here, and no page that needs JavaScript."""
