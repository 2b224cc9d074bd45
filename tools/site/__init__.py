"""What `make docs` adds to the pages of docs/: reference pages, and links that stay inside."""
