"""What machines ask over HTTP. Each endpoint translates one action and blocks on a thread of its own."""
