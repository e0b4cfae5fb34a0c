"""The console: web pages for support and security staff, rendered here, without a script."""
