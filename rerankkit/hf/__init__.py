"""Models of Hugging Face: what is known of them before, while and after they are loaded."""
