"""Models as `.tflite` files, and reports on what they cost and what they are worth."""
