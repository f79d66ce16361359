"""Accuracy against cost for a user's own data: a ladder of sizes, trained, deployed and timed."""
