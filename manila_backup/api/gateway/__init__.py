# SPDX-License-Identifier: Apache-2.0
"""The gateway: this API in front of a Manila, as the one endpoint that clients know.

With the option ``[gateway] manila_endpoint`` our API becomes the endpoint of the catalog type
``shared-file-system``. Each request is one of four kinds, decided by its path alone:

- **ours**: ``/v2/share-backups*``, the healthcheck, the OpenAPI document. Answered as without a
  gateway, Manila is not asked.
- **passed on**: everything that is not named here. Method, path and query byte for byte, headers,
  body; status, reason, headers and body of the answer. Nothing is buffered, decoded, followed or
  retried with a body. We neither check nor need the caller's identity: Manila does.
- **overlaid**: answers that Manila gives and that we complete: shares that we hold, quota sets,
  limits, user messages, the version document. Manila is always asked with the caller's own headers,
  so that it alone decides what the caller may see; our figures need the caller's identity and are
  asked of our own API in the same process, with the same headers.
- **refused**: what would take a share away from under an operation that is queued or running.

A path means the same to Manila and to us, or it is refused: dot segments, empty segments, encoded
slashes and control characters are 404 for everything (``target.py``). Manila's routes also know the
suffixes ``.json`` and ``.xml``, an optional project, and names from before version 2.7: so do we.

When our database is away, ours answers 503 and everything else is passed on untouched. That
includes what would be refused: whether the share is busy cannot be known then, and Manila must stay
usable. Nothing is lost by it: a share that an operation works on carries a mark and a lock in
Manila itself, and an operation that is still queued looks at its share again after it has set them.

When Manila is away: 503 if it cannot be reached, 504 if it is too slow, 502 if what it answers is
no HTTP, with Manila's kind of error body. A body that breaks off breaks off for the client, too.

Who imports whom: ``app`` > the nouns (``shares``, ``refusals``, ``quota_sets``, ``limits``,
``messages``, ``discovery``) > ``relay``, ``own``, ``busy`` > ``upstream`` > ``request`` >
``target``, ``headers``, ``versions``.
"""
