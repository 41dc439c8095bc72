"""What a GraphQL request would do, told from its document."""

from __future__ import annotations

import json

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

LONGEST_QUERY = 200_000
"""Characters; the UI's own queries have a tenth."""


class BadQuery(Exception):
    """The request holds no GraphQL document that can be judged."""


def operations(query: str) -> set[OperationType]:
    """Kinds of all operations in a document, also of those that ``operationName`` does not choose.

    Raises:
        BadQuery: it is too long, nests too deeply, or is no GraphQL.
    """
    if len(query) > LONGEST_QUERY:
        raise BadQuery(f"a query may have {LONGEST_QUERY} characters, this one has {len(query)}")
    try:
        document = parse(query, no_location=True)
    except GraphQLError as error:
        raise BadQuery(error.message) from None
    except RecursionError:
        raise BadQuery("the query nests too deeply") from None
    return {node.operation for node in document.definitions if isinstance(node, OperationDefinitionNode)}


def posted_query(body: bytes) -> str:
    """The document of a JSON body.

    Raises:
        BadQuery: the body is no single request.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise BadQuery("the body is not JSON") from None
    if isinstance(content, list):
        raise BadQuery("several requests in one body are not answered; send one at a time")
    query = content.get("query") if isinstance(content, dict) else None
    if not isinstance(query, str):
        raise BadQuery('the body must be a JSON object with the text "query"')
    return query
