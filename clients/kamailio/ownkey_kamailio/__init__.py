"""ownkey's call gate inside Kamailio: what the worker processes run, and the commands of whoever sets it up."""
