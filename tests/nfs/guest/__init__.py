# SPDX-License-Identifier: Apache-2.0
"""What runs inside the virtual machine. Processes are fifty times slower there, and Python twenty
times: what a test needs of the machine is imported once, by ``agent.py``.
"""
