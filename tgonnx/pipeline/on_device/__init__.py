"""What goes to a device whose latency is measured: a runner for Python, one for JavaScript, how to use them."""
