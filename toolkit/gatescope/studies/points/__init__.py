"""What studies measure: one module a point function, light to import, heavy when called."""
