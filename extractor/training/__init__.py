"""Where encoders are made: pre-training and fine-tuning."""
