"""From the bytes of an image file to fixed-size uint8 pixels."""
