"""What a head is made of: fusion, time, frameworks."""
