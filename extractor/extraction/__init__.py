"""Every frame through one or several encoders into the store: reader, mapper, sink."""
