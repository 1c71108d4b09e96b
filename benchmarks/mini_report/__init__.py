"""What the embedded weights can do, measured on held-out people and speech."""
