"""From packages and hubs to packed micro-batches; nothing is imported here, some modules must stay free of torch."""
