"""Layers: trees into OCI layers and back.

    file ── compression.open_stream ──> tar bytes ── reader.TarReader ──> entries ── extract.extract ──> a tree
            (magic, digests, diff id)                (ustar, GNU, PAX)               (descriptors, openat2)

The modules are imported where they are used; nothing is imported here.
"""
