"""Zoos elsewhere: on web servers, in folders and buckets. Nothing that they send is used before it is verified."""
