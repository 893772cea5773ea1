"""What each page shows, as values for its template: asked of the functions of the API, for the person who looks."""
