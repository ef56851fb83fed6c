"""The pages for people. They call the services that the API calls, and own no model."""
