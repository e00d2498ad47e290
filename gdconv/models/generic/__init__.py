"""Any torch module made of known layers: bounds of its first and second derivative on a ball."""
