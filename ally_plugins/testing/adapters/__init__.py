"""For authors of host adapters: the checks that an adapter for an agent framework should pass, and their needs.

The checks know no framework. How an agent is made and run, and what its history holds, is left to the author's driver.
"""
