"""The dashboard: pages for a person with a browser, rendered here and made of what the API's own operations answer.

It knows nothing that the API doesn't: what a page shows and changes goes through the operations of `admin`, as the
caller whose key was given at the sign-in.
"""
