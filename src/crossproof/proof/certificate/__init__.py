"""Certificates: compact, checkable statements about small networks.

`format` and `writer` read and write certificate folders (docs/certificate-format.md), `provers`
search them, `verifier` says what they prove, trusting nothing, and `cost` counts it all.
"""
