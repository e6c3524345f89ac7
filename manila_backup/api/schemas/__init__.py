# SPDX-License-Identifier: Apache-2.0
"""JSON schemas (Draft 2020-12) of request bodies, queries and responses, one file per noun."""
