"""Materials: features and light to colour."""
