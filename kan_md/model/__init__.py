"""model.pth: writing it, reading it, building the network back."""
