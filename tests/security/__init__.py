"""The catalogue of attacks, executable: `make test-security`, or plain pytest.

base.py says how an attack is written; each attacks_*.py is one section.
"""
