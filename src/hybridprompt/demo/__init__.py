"""Shows what the codec does with a real clip."""
