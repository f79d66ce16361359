"""What the passes on Allegro need to know of its networks."""
