"""Decisions, and nothing else: which flavor, how much room, idle or not, what to adopt and what to destroy.

Every function here is pure: it takes records and returns what to do, or raises the error that says why not. Who asks a
cloud, writes the state or waits is above. Import the modules by name (`from pileus.policy import flavors`).
"""
