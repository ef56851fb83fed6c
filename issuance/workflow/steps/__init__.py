"""The six steps of an attempt, one module each, and what several of them share.

Each step asks what is already true and does what is missing.
"""
