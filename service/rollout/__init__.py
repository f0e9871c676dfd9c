"""Which bundle is live: reloads, rollbacks, the shadow, and how several processes agree."""
