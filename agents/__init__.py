"""What runs in a worker: the actors that feed the pure machines, and the Faust agents around them."""
