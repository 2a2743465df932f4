"""Which answers of a LoRA-tuned text classifier should not be trusted."""
