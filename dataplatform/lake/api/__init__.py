"""A web API: declared endpoints, requests within a budget, and what its errors mean."""
