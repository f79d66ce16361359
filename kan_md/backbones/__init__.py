"""One adapter per upstream architecture, with KANs at its sites."""
