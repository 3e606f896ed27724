"""What is decided about deliveries. Pure: values in, values out."""
