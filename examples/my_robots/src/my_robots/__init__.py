"""Task families outside of metarl: a new body, and a variation of an existing one."""
