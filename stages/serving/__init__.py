"""The exported model as a service, and its page."""
