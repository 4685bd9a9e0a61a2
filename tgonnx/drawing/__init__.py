"""Pictures and pages from plain data: SVG and HTML without any library and without the network, PNG with one."""
