"""Every table of the hub and of the spokes that own some, for alembic."""

from audit.trail import metadata as audit_metadata
from idhub import authority, keys
from idhub.access import tables as access_tables
from idhub.credentials import tables as credential_tables
from idhub.db import Base
from idhub.delivery import tables as delivery_tables
from idhub.directory import tables as directory_tables
from idhub.lifecycle import tables as lifecycle_tables
from idhub.login import tables as login_tables
from idhub.provisioning.events import tables as event_tables
from idhub.provisioning.inbound import tables as inbound_tables
from idhub.provisioning.outbound import tables as outbound_tables
from idhub.provisioning.reconcile import tables as reconcile_tables

OWNERS = (
    directory_tables,
    access_tables,
    credential_tables,
    delivery_tables,
    lifecycle_tables,
    login_tables,
    inbound_tables,
    event_tables,
    outbound_tables,
    reconcile_tables,
    authority,
    keys,
)
target_metadata = [Base.metadata, audit_metadata]
