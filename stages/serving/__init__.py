"""The exported model as a service over HTTP."""
