"""What all parts agree on; standard library only."""
