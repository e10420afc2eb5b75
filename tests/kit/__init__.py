"""What the tests of several folders share, each thing once: `from tests.kit.waiting import go`.

The conftest at the root makes the name importable; fixtures that hold something stay in the conftests and are thin.
"""
