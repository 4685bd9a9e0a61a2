"""Search and fine-tuning."""
