"""The dashboard and the REST API, served by control itself."""
