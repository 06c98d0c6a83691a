"""Members of a team's tracking server: accounts that may train and promote, or only read."""

from __future__ import annotations

import secrets

from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient

from skippy.errors import ServerError
from skippy.tracking.connection import Store

ROLE = "skippy-team"
WORKSPACE = "default"
TEAM_PERMISSIONS = {"experiment": "MANAGE", "registered_model": "MANAGE"}
"""Kind of thing → what a member may do with everybody's: EDIT trains and promotes, but sweeps no orphaned weights and
takes no alias away. Who only reads has MLflow's default, READ."""


def add_member(store: Store, name: str, *, may_write: bool) -> str:
    """Make an account with a password of its own; returns the password, which nothing keeps.

    Raises:
        ServerError: there is no such server, this is not its administrator, or the name is taken.
    """
    if not store.is_server:
        raise _refused(name, "a database or a file, which has no accounts")
    client = AuthServiceClient(store.uri)
    password = secrets.token_urlsafe(15)
    try:
        client.create_user(name, password)
        if may_write:
            client.assign_role(name, _team(client))
    except MlflowException as error:
        raise _refused(name, str(error)) from error
    return password


def _team(client: AuthServiceClient) -> int:
    """Id of the role of those who may write; made by the first."""
    for role in client.list_roles(WORKSPACE):
        if role.name == ROLE:
            return int(role.id)
    made = client.create_role(WORKSPACE, ROLE, "may train, register and promote")
    for kind, permission in TEAM_PERMISSIONS.items():
        client.add_role_permission(made.id, kind, "*", permission)
    return int(made.id)


def _refused(name: str, found: str) -> ServerError:
    return ServerError(
        "The server did not take a new member.",
        where=name,
        expected="MLFLOW_TRACKING_URI of a server with accounts, and MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD of its administrator; a name that is free",
        found=found,
        next_step="set these three, or choose another name",
    )
