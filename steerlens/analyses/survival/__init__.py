"""How long an effect lasts: long texts under steering, read window by window."""
