"""What would make the CA refuse, found before an order is spent."""
