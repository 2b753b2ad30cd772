"""The exported model as a service over HTTP, and the page that shows it at work."""
