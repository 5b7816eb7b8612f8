"""The five systems' own paths and shapes, served by the same handlers: one table, no second implementation."""
