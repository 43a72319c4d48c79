"""Is what is served still right? Looks at the prediction log from outside the service."""
