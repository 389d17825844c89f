"""The files that steering data come in: bytes to tables, tables to drafts of pairs."""
