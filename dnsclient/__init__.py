"""DNS client. It knows neither database rows nor DNS providers."""
